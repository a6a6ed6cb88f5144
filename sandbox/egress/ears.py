"""How this host's sandbox worker hands listening sockets to the proxy: over a Unix socket, for the same user only.

Of several proxies on a host the one that holds the lock beside the socket takes orders; once it is gone, another.
"""

import array
import asyncio
import contextlib
import fcntl
import os
import socket
import struct
from collections.abc import Coroutine
from pathlib import Path
from typing import Literal, TextIO

import structlog
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sandbox.egress.contract import AuthorityError
from sandbox.egress.server import Proxy

_log = structlog.get_logger(__name__)
_MAX_PACKET = 128 * 1024
"""Below the kernel's default for one packet, and some thousand sandbox ids."""
_MAX_DESCRIPTORS = 4
_WAIT_SECONDS = 5
"""A proxy on the same host answers within milliseconds; one that does not is stuck or gone."""
_BACKLOG = 64
_LOOK_SECONDS = 0.25
"""How often a proxy looks whether the one that takes this host's orders is gone."""


class _Order(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    do: Literal["attach", "detach", "list", "authority"]
    sandbox_id: str = Field(default="", max_length=200)


class _Reply(BaseModel):
    model_config = ConfigDict(frozen=True)

    attached: list[str] = Field(default_factory=list)
    certificate: str = ""
    error: str | None = None
    is_lasting: bool = False


class EarsError(Exception):
    """The proxy of this host did not take the socket, or does not answer; the message says why."""


class EarsRefusedError(EarsError):
    """The proxy will go on refusing until somebody has done something; the message says what."""


class Ears:
    """The proxy's side: takes orders for it, once no other proxy does. An async context manager."""

    def __init__(self, path: Path, proxy: Proxy):
        self._path = path
        self._proxy = proxy
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener: socket.socket | None = None

    async def __aenter__(self) -> "Ears":
        self._lock = self._path.with_name(f"{self._path.name}.lock").open("w")
        if _is_taken(self._lock):
            self._spawn(self._take_over())
        else:
            self._listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._listener is not None:
            self._listener.close()
            self._path.unlink(missing_ok=True)
        self._lock.close()

    def _listen(self) -> None:
        self._listener = _listen(self._path)
        self._spawn(self._accept(self._listener))

    async def _take_over(self) -> None:
        _log.info("egress_ears_of_another", path=str(self._path))
        while _is_taken(self._lock):  # noqa: ASYNC110 - by another process
            await asyncio.sleep(_LOOK_SECONDS)
        self._listen()

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self, listener: socket.socket) -> None:
        while True:
            accepted, _ = await asyncio.get_running_loop().sock_accept(listener)
            self._spawn(self._converse(accepted))

    async def _converse(self, peer: socket.socket) -> None:
        with peer:
            peer.setblocking(False)
            if _user_of(peer) != os.getuid():
                _log.warning("egress_ears_stranger", uid=_user_of(peer))
                return
            with contextlib.suppress(OSError):
                while await self._one_order(peer):
                    pass

    async def _one_order(self, peer: socket.socket) -> bool:
        await _readable(peer)
        data, sockets = _receive(peer)
        if not data:
            return False
        try:
            reply = await self._obey(_Order.model_validate_json(data), sockets)
        except ValidationError as error:
            reply = _Reply(error=f"the order is not valid: {error.error_count()} errors")
        finally:
            for each in sockets:
                each.close()
        peer.send(reply.model_dump_json().encode())
        return True

    async def _obey(self, order: _Order, sockets: list[socket.socket]) -> _Reply:
        if order.do == "list":
            return _Reply(attached=self._proxy.attached())
        if not order.sandbox_id:
            return _Reply(error="the order names no sandbox")
        if order.do == "detach":
            await self._proxy.detach(order.sandbox_id)
            return _Reply()
        if order.do == "authority":
            return await self._authority(order.sandbox_id)
        if len(sockets) != 1 or not _listens(sockets[0]):
            return _Reply(error="exactly one listening stream socket has to come with the order")
        await self._proxy.attach(order.sandbox_id, sockets.pop())
        return _Reply()

    async def _authority(self, sandbox_id: str) -> _Reply:
        try:
            return _Reply(certificate=(await self._proxy.authority(sandbox_id)).decode())
        # Whatever keeps the store or the vault from answering is the worker's to hear and to report.
        except Exception as error:  # noqa: BLE001
            _log.error("egress_authority_failed", sandbox_id=sandbox_id, error=type(error).__name__)
            return _Reply(error=str(error) or type(error).__name__, is_lasting=isinstance(error, AuthorityError))


class EarsClient:
    """The sandbox worker's side; one short connection per order, so that a restarted proxy is simply found again."""

    def __init__(self, path: Path):
        self._path = path

    async def attach(self, sandbox_id: str, listener: socket.socket) -> None:
        """Hand over a listening socket; the caller may close its own copy afterwards. Raises `EarsError`."""
        await self._order(_Order(do="attach", sandbox_id=sandbox_id), [listener.fileno()])

    async def detach(self, sandbox_id: str) -> None:
        """Have a sandbox's socket and connections closed. Raises `EarsError`."""
        await self._order(_Order(do="detach", sandbox_id=sandbox_id), [])

    async def attached(self) -> list[str]:
        """Return the sandboxes that are listened for. Raises `EarsError`."""
        return (await self._order(_Order(do="list"), [])).attached

    async def authority(self, sandbox_id: str) -> str:
        """Return the certificate (PEM) that the sandbox has to trust, its session's own.

        Raises `EarsError`, `EarsRefusedError`.
        """
        return (await self._order(_Order(do="authority", sandbox_id=sandbox_id), [])).certificate

    async def _order(self, order: _Order, descriptors: list[int]) -> _Reply:
        try:
            reply = await asyncio.to_thread(self._exchange, order, descriptors)
        except (OSError, ValidationError) as error:
            raise EarsError(f"the egress proxy at {self._path} does not answer: {error}") from error
        if reply.error:
            refused = EarsRefusedError if reply.is_lasting else EarsError
            raise refused(f"the egress proxy refused: {reply.error}")
        return reply

    def _exchange(self, order: _Order, descriptors: list[int]) -> _Reply:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as peer:
            peer.settimeout(_WAIT_SECONDS)
            peer.connect(str(self._path))
            socket.send_fds(peer, [order.model_dump_json().encode()], descriptors)
            return _Reply.model_validate_json(peer.recv(_MAX_PACKET))


def _is_taken(lock: TextIO) -> bool:
    """Take a lock, which is held until the file is closed, unless another process has it."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def _listen(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(before)
    listener.listen(_BACKLOG)
    listener.setblocking(False)
    return listener


def _receive(peer: socket.socket) -> tuple[bytes, list[socket.socket]]:
    size = array.array("i").itemsize
    data, ancillary, _, _ = peer.recvmsg(
        _MAX_PACKET, socket.CMSG_SPACE(_MAX_DESCRIPTORS * size), socket.MSG_CMSG_CLOEXEC
    )
    descriptors = array.array("i")
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(content[: len(content) - len(content) % size])
    return data, [found for each in descriptors if (found := _as_socket(each))]


def _as_socket(descriptor: int) -> socket.socket | None:
    try:
        return socket.socket(fileno=descriptor)
    except OSError:
        os.close(descriptor)
        return None


def _listens(candidate: socket.socket) -> bool:
    return candidate.type == socket.SOCK_STREAM and bool(
        candidate.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    )


def _user_of(peer: socket.socket) -> int:
    _, uid, _ = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return uid


async def _readable(peer: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(peer, ready.set_result, None)
    try:
        await ready
    finally:
        loop.remove_reader(peer)
