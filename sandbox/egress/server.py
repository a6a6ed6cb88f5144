"""The proxy: takes listening sockets, each of which is one sandbox, and serves what connects to them.

Of a sandbox on another machine it takes the connected sockets themselves, from the gate (`gate.py`).
"""

import asyncio
import contextlib
import socket
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from sandbox.egress.addresses import AddressRules, Resolver
from sandbox.egress.certificates import Authority, Certificates
from sandbox.egress.connection import Connection, Services
from sandbox.egress.contract import AuditSink, PolicySource
from sandbox.egress.limits import MAX_CONNECTIONS_PER_SANDBOX, MAX_GUESTS
from sandbox.egress.pace import RefusalPace
from sandbox.egress.revocation import Watch
from sandbox.egress.tunnel import Buffers
from sandbox.egress.upstream import Dialler, upstream_context

_log = structlog.get_logger(__name__)
_ACCEPT_PAUSE_SECONDS = 0.05
"""After an accept failed, usually for want of descriptors: long enough for one to be given back."""


@dataclass(frozen=True)
class EgressSettings:
    """What the installation sets: further roots for upstreams, pinned names, and private ranges that are allowed."""

    ca_file: Path | None = None
    addresses: AddressRules = field(default_factory=AddressRules)


class _Guest:
    """One sandbox: what it has open, and how fast it may be refused."""

    def __init__(self) -> None:
        self.connections: set[asyncio.Task[None]] = set()
        self.refusals = RefusalPace()


class _Ear(_Guest):
    def __init__(self, listener: socket.socket):
        super().__init__()
        self.listener = listener
        self.accepting: asyncio.Task[None] | None = None


class Proxy:
    """Serves sandboxes; keeps nothing that another process could not make again. An async context manager."""

    def __init__(
        self, *, policies: PolicySource, audit: AuditSink, resolver: Resolver, settings: EgressSettings | None = None
    ):
        chosen = settings or EgressSettings()
        self._watch = Watch(policies)
        dialler = Dialler(chosen.addresses, resolver, upstream_context(chosen.ca_file))
        self._services = Services(policies, audit, dialler, Certificates(), self._watch, Buffers())
        self._ears: dict[str, _Ear] = {}
        self._guests: OrderedDict[str, _Guest] = OrderedDict()
        self._watching: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "Proxy":
        self._watching = asyncio.create_task(self._watch.run(), name="egress-watch")
        return self

    async def __aexit__(self, *_: object) -> None:
        for sandbox_id in self.attached():
            await self.detach(sandbox_id)
        await _cancelled([task for guest in self._guests.values() for task in guest.connections])
        if self._watching:
            await _cancelled([self._watching])

    def attached(self) -> list[str]:
        """Return the ids of the sandboxes that are listened for."""
        return sorted(self._ears)

    async def attach(self, sandbox_id: str, listener: socket.socket) -> None:
        """Serve what connects to a listening socket in the name of a sandbox; takes the place of an earlier one."""
        await self.detach(sandbox_id)
        listener.setblocking(False)
        ear = self._ears[sandbox_id] = _Ear(listener)
        ear.accepting = asyncio.create_task(self._accept(sandbox_id, ear), name=f"egress-accept-{sandbox_id}")

    async def detach(self, sandbox_id: str) -> None:
        """Close a sandbox's listening socket and connections; nothing happens if it is not attached."""
        ear = self._ears.pop(sandbox_id, None)
        if ear is None:
            return
        await _cancelled([ear.accepting] if ear.accepting else [])
        ear.listener.close()
        await _cancelled(list(ear.connections))

    def serve(self, sandbox_id: str, connected: socket.socket) -> None:
        """Serve a connected socket in the name of a sandbox; the caller has made sure that it is that one's."""
        guest = self._guests.setdefault(sandbox_id, _Guest())
        self._guests.move_to_end(sandbox_id)
        self._welcome(sandbox_id, guest, connected)
        # How fast a sandbox may be refused outlives its connections, else leaving would be a way around it.
        if len(self._guests) > MAX_GUESTS:
            for idle in [name for name, each in self._guests.items() if not each.connections][: MAX_GUESTS // 8]:
                del self._guests[idle]

    async def drain(self, seconds: float) -> None:
        """Return when nothing is open any more that `serve` was given, or after so long."""
        if tasks := [task for guest in self._guests.values() for task in guest.connections]:
            await asyncio.wait(tasks, timeout=seconds)

    async def authority(self, sandbox_id: str) -> bytes:
        """Return the certificate (PEM) of the authority of a sandbox's session; raises `LookupError` if unknown."""
        policies = self._services.policies
        policy = await policies.policy(sandbox_id)
        if policy is None:
            raise LookupError(f"no sandbox {sandbox_id!r}")
        return Authority(policy.session_id, await policies.authority_seed(policy.session_id)).certificate_pem

    async def _accept(self, sandbox_id: str, ear: _Ear) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, _ = await loop.sock_accept(ear.listener)
            except OSError as error:
                _log.warning("egress_accept_failed", sandbox_id=sandbox_id, error=type(error).__name__)
                await asyncio.sleep(_ACCEPT_PAUSE_SECONDS)
                continue
            self._welcome(sandbox_id, ear, accepted)

    def _welcome(self, sandbox_id: str, guest: _Guest, accepted: socket.socket) -> None:
        if len(guest.connections) >= MAX_CONNECTIONS_PER_SANDBOX:
            _turn_away(accepted)
            return
        task = asyncio.create_task(self._serve(sandbox_id, accepted, guest.refusals))
        guest.connections.add(task)
        task.add_done_callback(guest.connections.discard)

    async def _serve(self, sandbox_id: str, accepted: socket.socket, refusals: RefusalPace) -> None:
        try:
            await Connection(self._services, sandbox_id, accepted, refusals=refusals).run()
        # A mistake of ours must not be felt by other connections, and its text is not logged: it could hold a value.
        except Exception as error:  # noqa: BLE001
            _log.error("egress_connection_failed", sandbox_id=sandbox_id, error=type(error).__name__)
            accepted.close()


def _turn_away(accepted: socket.socket) -> None:
    with accepted, contextlib.suppress(OSError):
        body = b"Too many connections of this sandbox are open at once; close some and try again.\n"
        accepted.send(
            b"HTTP/1.1 503 Too many connections of this sandbox are open\r\nContent-Type: text/plain\r\n"
            b"X-Bulkhead-Reason: too_many_connections\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b"
            % (len(body), body)
        )


async def _cancelled(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
