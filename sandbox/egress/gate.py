"""Where sandboxes on other machines reach the proxy: a connection says whose it is, and proves it, before all else.

The first line is ``BULKHEAD/1 <sandbox id> <password>``; what follows belongs to the sandbox. With a further word,
``authority``, the answer is the certificate of its session's authority, and the connection ends. Who says nothing,
too much or something else is closed without a word, and is not told which of it was wrong.
"""

import asyncio
import contextlib
import hashlib
import hmac
import ipaddress
import re
import socket
from collections import Counter
from dataclasses import dataclass
from typing import Protocol

import structlog

from sandbox.egress.contract import AuthorityError
from sandbox.egress.ears import EarsError, EarsRefusedError
from sandbox.egress.limits import (
    DECISION_SECONDS,
    MAX_LOOKUPS,
    MAX_PREAMBLE_BYTES,
    MAX_UNKNOWN,
    MAX_UNKNOWN_PER_ADDRESS,
    PREAMBLE_SECONDS,
)
from sandbox.egress.server import Proxy

_log = structlog.get_logger(__name__)
_PREAMBLE = re.compile(rb"BULKHEAD/1 ([A-Za-z0-9_.-]{1,100}) ([A-Za-z0-9_-]{16,200})( authority)?")
_BACKLOG = 1024
_ACCEPT_PAUSE_SECONDS = 0.05
_SAY_SECONDS = 1.0
"""Between two lines in the log about connections that were closed: they say how many there have been."""
_ANSWER_SECONDS = 10.0
_MAX_ANSWER = 64 * 1024
_REFUSED, _AWAY = b"refused ", b"away "


class GateKeys(Protocol):
    """Says by what a sandbox is known; on Postgres in `controlplane/store/egress.py`."""

    async def gate_sha256(self, sandbox_id: str, *, fresh: bool = False) -> bytes | None:
        """Return the hash of the sandbox's password, None if it has none or has ended.

        Without ``fresh``, also None if it is not at hand. With it, raises if that cannot be known now.
        """
        ...


@dataclass(frozen=True)
class _Caller:
    sandbox_id: str
    password: bytes
    wants_authority: bool


class Gate:
    """Listens at an address for a proxy. An async context manager; at its end what is open may go on for a while."""

    def __init__(self, address: tuple[str, int], proxy: Proxy, keys: GateKeys, *, drain_seconds: float = 0):
        self._address = address
        self._proxy = proxy
        self._keys = keys
        self._drain_seconds = drain_seconds
        self._unknown: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._lookups = asyncio.Semaphore(MAX_LOOKUPS)
        self._closed = 0
        self._said_at = float("-inf")

    async def __aenter__(self) -> "Gate":
        self._listener = _listening(self._address)
        self._accepting = asyncio.create_task(self._accept(), name="egress-gate")
        _log.info("egress_gate_listening", address=self.address[0], port=self.address[1])
        return self

    async def __aexit__(self, *_: object) -> None:
        self._accepting.cancel()
        await asyncio.gather(self._accepting, return_exceptions=True)
        self._listener.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._proxy.drain(self._drain_seconds)

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        host, port, *_ = self._listener.getsockname()
        return host, port

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, peer = await loop.sock_accept(self._listener)
            except OSError as error:
                _log.warning("egress_accept_failed", error=type(error).__name__)
                await asyncio.sleep(_ACCEPT_PAUSE_SECONDS)
                continue
            self._begin(accepted, peer[0])

    def _begin(self, accepted: socket.socket, peer: str) -> None:
        if self._unknown[peer] >= MAX_UNKNOWN_PER_ADDRESS or len(self._tasks) >= MAX_UNKNOWN:
            accepted.close()
            self._tell(peer, "too many have not said whose they are")
            return
        self._unknown[peer] += 1
        task = asyncio.create_task(self._ask(accepted, peer))
        self._tasks.add(task)

        def done(_: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            self._unknown[peer] -= 1
            if not self._unknown[peer]:
                del self._unknown[peer]

        task.add_done_callback(done)

    async def _ask(self, accepted: socket.socket, peer: str) -> None:
        handed_on = False
        try:
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            async with asyncio.timeout(PREAMBLE_SECONDS):
                line = await _first_line(accepted)
            caller = _caller(line)
            if caller is None or not await self._is_known(caller):
                self._tell(peer, "nobody is known by that")
            elif caller.wants_authority:
                await self._answer_authority(accepted, caller.sandbox_id)
            else:
                handed_on = True
                self._proxy.serve(caller.sandbox_id, accepted)
        except (OSError, TimeoutError) as error:
            self._tell(peer, type(error).__name__)
        # A store that is away, in whatever way: nobody is known then.
        except Exception as error:  # noqa: BLE001
            self._tell(peer, f"it cannot be decided ({type(error).__name__})")
        finally:
            if not handed_on:
                accepted.close()

    async def _is_known(self, caller: _Caller) -> bool:
        """Compare with what is at hand, and where that says no, with what is recorded now."""
        if _fits(caller, await self._keys.gate_sha256(caller.sandbox_id)):
            return True
        async with asyncio.timeout(DECISION_SECONDS), self._lookups:
            return _fits(caller, await self._keys.gate_sha256(caller.sandbox_id, fresh=True))

    async def _answer_authority(self, accepted: socket.socket, sandbox_id: str) -> None:
        try:
            answer = await self._proxy.authority(sandbox_id)
        except AuthorityError as error:
            answer = _REFUSED + str(error).encode()
        # Whatever else keeps the store or the vault from answering may pass.
        except Exception as error:  # noqa: BLE001
            _log.error("egress_authority_failed", sandbox_id=sandbox_id, error=type(error).__name__)
            answer = _AWAY + (str(error) or type(error).__name__).encode()
        async with asyncio.timeout(_ANSWER_SECONDS):
            await asyncio.get_running_loop().sock_sendall(accepted, answer)

    def _tell(self, peer: str, why: str) -> None:
        self._closed += 1
        now = asyncio.get_running_loop().time()
        if now - self._said_at >= _SAY_SECONDS:
            _log.warning("egress_gate_closed", peer=peer, why=why, connections=self._closed)
            self._said_at, self._closed = now, 0


async def authority(address: tuple[str, int], sandbox_id: str, password: str) -> str:
    """Ask a gate for the certificate (PEM) that a sandbox has to trust. Raises `EarsError`, `EarsRefusedError`."""
    where = f"the gate of the egress proxies at {address[0]}:{address[1]}"
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            reader, writer = await asyncio.open_connection(*address)
            with contextlib.closing(writer):
                writer.write(preamble(sandbox_id, password) + b" authority\n")
                answer = await reader.read(_MAX_ANSWER)
                while (more := await reader.read(_MAX_ANSWER)) and len(answer) < _MAX_ANSWER:
                    answer += more
    except (OSError, TimeoutError) as error:
        raise EarsError(f"{where} does not answer: {error or 'it took too long'}") from error
    if answer.startswith(_REFUSED):
        raise EarsRefusedError(f"the egress proxy refused: {answer.removeprefix(_REFUSED).decode()}")
    if not answer.startswith(b"-----BEGIN"):
        reason = answer.removeprefix(_AWAY).decode(errors="replace") or "it closed the connection"
        raise EarsError(f"{where} gave no certificate: {reason}")
    return answer.decode()


def preamble(sandbox_id: str, password: str) -> bytes:
    """Return what a connection begins with, but for the end of the line."""
    return f"BULKHEAD/1 {sandbox_id} {password}".encode()


def parse_address(text: str) -> tuple[str, int]:
    """Return host and port of ``host:port`` or ``[address]:port``; raises `ValueError`."""
    host, colon, port = text.strip().rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = str(ipaddress.IPv6Address(host[1:-1]))
    elif ":" in host:
        raise ValueError(f"{text!r} has several colons; put an IPv6 address into [brackets]")
    if not colon or not host or not port.isascii() or not port.isdigit() or not 0 <= int(port) <= 65535:
        raise ValueError(f"{text!r} is not host:port")
    return host, int(port)


def _caller(line: bytes | None) -> _Caller | None:
    found = _PREAMBLE.fullmatch(line) if line is not None else None
    if found is None:
        return None
    return _Caller(found[1].decode(), found[2], wants_authority=found[3] is not None)


def _fits(caller: _Caller, expected: bytes | None) -> bool:
    said = hashlib.sha256(caller.password).digest()
    return hmac.compare_digest(said, expected or b"") and expected is not None


async def _first_line(connection: socket.socket) -> bytes | None:
    """Return the first line without its end, and leave all after it unread; None if it is too long or breaks off."""
    connection.setblocking(False)
    line = b""
    while len(line) <= MAX_PREAMBLE_BYTES:
        await _readable(connection)
        try:
            seen = connection.recv(MAX_PREAMBLE_BYTES, socket.MSG_PEEK)
            end = seen.find(b"\n")
            line += connection.recv(len(seen) if end < 0 else end + 1)
        except BlockingIOError:
            continue
        if not seen:
            return None
        if end >= 0:
            return line[:-1] if len(line) <= MAX_PREAMBLE_BYTES else None
    return None


async def _readable(connection: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(connection, ready.set_result, None)
    try:
        await ready
    finally:
        loop.remove_reader(connection)


def _listening(address: tuple[str, int]) -> socket.socket:
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    both = family == socket.AF_INET6 and address[0] == "::"
    listener = socket.create_server(address, family=family, backlog=_BACKLOG, dualstack_ipv6=both)
    listener.setblocking(False)
    return listener
