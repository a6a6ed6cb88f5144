"""One client connection of a sandbox: a tunnel, requests inside a decrypted tunnel, or plain requests."""

import asyncio
import contextlib
import socket
from dataclasses import dataclass, replace

import structlog

from sandbox.egress.audit import Record, UnrecordedError
from sandbox.egress.certificates import Certificates
from sandbox.egress.channel import SocketChannel, TlsChannel
from sandbox.egress.contract import AuditSink, PolicySource, SandboxPolicy
from sandbox.egress.destination import Destination, DestinationError, parse_authority
from sandbox.egress.exchange import Asked, Exchange
from sandbox.egress.heads import RequestHead
from sandbox.egress.limits import LINGER_SECONDS, MAX_LINGER_BYTES
from sandbox.egress.pace import RefusalPace
from sandbox.egress.peers import ClientSide
from sandbox.egress.revocation import CutReason, Watch, Watched
from sandbox.egress.rules import CutError, FailedError, RefusedError, Ruling, judge_destination
from sandbox.egress.scrub import KnownForms
from sandbox.egress.tunnel import Buffers, HelloError, carry, check_server_name, read_hello
from sandbox.egress.upstream import Dialler, Upstreams

_log = structlog.get_logger(__name__)
_ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"
_UNDECIDED = "It cannot be decided at the moment whether this is allowed, so it was not passed on; try again."


@dataclass(frozen=True)
class Services:
    """What every connection uses."""

    policies: PolicySource
    audit: AuditSink
    dialler: Dialler
    certificates: Certificates
    watch: Watch
    buffers: Buffers


_CUTS: dict[CutReason, RefusedError] = {
    "revoked": CutError("revoked", "The permission was taken back in the meantime, so the connection was cut."),
    "slow_sender": CutError("slow_sender", "The request did not arrive in time, so it was given up.", status=408),
    "undecided": CutError("undecided", _UNDECIDED, status=503),
    "idle": CutError("idle", "Nothing was sent for too long, so the connection was closed.", status=408),
    "client_left": FailedError("client_left", "The client left before the answer had ended."),
}


class Connection:
    """Serves one accepted socket until it ends, is cut, or the proxy stops."""

    def __init__(self, services: Services, sandbox_id: str, accepted: socket.socket, *, refusals: RefusalPace):
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a connection is only made inside its task
        self._services = services
        self._sandbox_id = sandbox_id
        self._refusals = refusals
        self._socket = SocketChannel(accepted)
        self._watched = Watched(sandbox_id, task)
        self._watched.channels.append(self._socket)
        self._upstreams = Upstreams(services.dialler, self._watched)
        self._client = ClientSide(self._socket)
        self._forms = KnownForms()
        self._policy: SandboxPolicy | None = None
        self._ruled: tuple[SandboxPolicy, Destination, Ruling] | None = None
        self._record: Record | None = None

    async def run(self) -> None:
        """Serve the connection; raises nothing but `asyncio.CancelledError` from outside."""
        self._watched.reading_head()
        self._services.watch.add(self._watched)
        try:
            await self._serve()
        except asyncio.CancelledError:
            if self._watched.cut is None:
                # The proxy lets go of this sandbox: what it carried has ended, and somebody may wait for the proof.
                await self._record_lost()
                raise
            await self._tell_cut(_CUTS[self._watched.cut])
        except (OSError, UnrecordedError) as error:
            await self._tell_lost(error)
        finally:
            self._services.watch.remove(self._watched)
            self._upstreams.close()
            self._socket.close()

    async def _serve(self) -> None:
        try:
            await self._requests(None)
        except RefusedError as refused:
            await self._refuse(refused)
        except UnrecordedError:
            await self._answer_refused(RefusedError("audit_unavailable", _UNDECIDED, status=503))

    async def _requests(self, tunnel: Destination | None) -> None:
        """Serve request after request; inside a tunnel all of them go to its destination."""
        while await self._next_begins():
            self._watched.reading_head()
            self._record = None
            request = await self._client.request()
            self._watched.deciding()
            if tunnel is None and request.method == b"CONNECT":
                return await self._connect(request)
            await self._exchange(request, tunnel)
            if not self._client.finish():
                return await self._linger()
        return None

    async def _next_begins(self) -> bool:
        self._watched.keeping_alive()
        return await self._client.first_byte()

    async def _exchange(self, request: RequestHead, tunnel: Destination | None) -> None:
        policy = await self._decided_policy()
        target = request.target.decode()
        destination, target = (tunnel, target) if tunnel else _absolute(target)
        record = self._record = self._new_record(policy, request, destination, target)
        _check_host(request, destination)
        if not target.startswith("/") or "#" in target:
            raise RefusedError("bad_target", "The request's target is not a path.", status=400)
        ruling = self._ruling(policy, destination)
        if tunnel is not None and ruling.mode != "intercept":
            # Decrypted when a credential was bound: it stays so if there is none any more, without a swap.
            ruling = replace(ruling, mode="intercept")
        exchange = Exchange(
            Asked(policy, ruling, destination, request, target.encode()),
            client=self._client,
            upstreams=self._upstreams,
            dialler=self._services.dialler,
            policies=self._services.policies,
            record=record,
            watched=self._watched,
            forms=self._forms,
        )
        await exchange.run()
        self._watched.closed()
        self._watched.deciding()
        await record.end()

    def _ruling(self, policy: SandboxPolicy, destination: Destination) -> Ruling:
        # A policy never changes, a changed one is another: what one was found to say of a destination stays true.
        if self._ruled is None or self._ruled[0] is not policy or self._ruled[1] != destination:
            self._ruled = policy, destination, judge_destination(policy, destination)
        return self._ruled[2]

    async def _connect(self, request: RequestHead) -> None:
        policy = await self._decided_policy()
        destination = _authority(request.target.decode())
        record = self._record = self._new_record(policy, request, destination, None)
        _check_host(request, destination)
        ruling = judge_destination(policy, destination)
        if ruling.mode == "intercept":
            await self._intercept(policy, destination)
        else:
            await self._tunnel(policy, ruling, destination, record)

    async def _intercept(self, policy: SandboxPolicy, destination: Destination) -> None:
        seed = await self._authority_seed(policy)
        received = await self._hello(destination)
        context = self._services.certificates.context(policy.session_id, seed, destination.host)
        channel = TlsChannel(self._socket, context, received=received)
        try:
            await channel.handshake()
        except OSError as error:
            raise FailedError(
                "client_tls", f"The client and the proxy could not agree on TLS for host {destination.host}."
            ) from error
        self._client = ClientSide(channel)
        await self._requests(destination)

    async def _tunnel(self, policy: SandboxPolicy, ruling: Ruling, destination: Destination, record: Record) -> None:
        self._watched.carrying()
        where = await self._services.dialler.vet(destination)
        self._watched.deciding()
        self._watched.opened(policy, lambda now: _same_mode(now, destination, ruling))
        await record.allow()
        await self._watched.confirm(self._services.policies)
        self._watched.carrying()
        upstream = await self._services.dialler.dial(destination, where)
        self._watched.channels.append(upstream)
        try:
            received = await self._hello(destination)
            self._watched.carrying()
            await upstream.send(received)
            record.bytes_up += len(received)
            await carry(self._socket, upstream, record=record, buffers=self._services.buffers)
        finally:
            self._watched.channels.remove(upstream)
            upstream.close()
        self._watched.closed()
        self._watched.deciding()
        await record.end()

    async def _hello(self, destination: Destination) -> bytes:
        """Tell the client that it is connected, and return its ClientHello if it names the destination."""
        early = self._client.rest
        # From here on an answer in HTTP would be read as TLS.
        self._client.answered = True
        await self._socket.send(_ESTABLISHED)
        self._watched.reading_head()
        try:
            received, name = await read_hello(self._socket, early)
        except HelloError as error:
            raise RefusedError(
                "not_tls", f"The connection to host {destination.host} on port 443 did not begin with TLS."
            ) from error
        check_server_name(name, destination.host)
        return received

    async def _decided_policy(self) -> SandboxPolicy:
        try:
            policy = await self._services.policies.policy(self._sandbox_id)
        # Whatever fails in a source: nobody knows what is allowed, so nothing is.
        except Exception as error:
            _log.error("egress_policy_unavailable", sandbox_id=self._sandbox_id, error=type(error).__name__)
            raise RefusedError("policy_unavailable", _UNDECIDED, status=503) from error
        if policy is None:
            raise RefusedError("sandbox_unknown", "This sandbox has ended, so nothing can be reached from it.")
        self._policy = policy
        return policy

    async def _authority_seed(self, policy: SandboxPolicy) -> bytes:
        try:
            return await self._services.policies.authority_seed(policy.session_id)
        # As above: without it there is no certificate, and so no request.
        except Exception as error:
            raise RefusedError("policy_unavailable", _UNDECIDED, status=503) from error

    def _new_record(
        self, policy: SandboxPolicy, request: RequestHead, destination: Destination, target: str | None
    ) -> Record:
        return Record(
            self._services.audit,
            policy,
            method=request.method.decode(),
            host=destination.host,
            port=destination.port,
            target=target,
        )

    async def _refuse(self, refused: RefusedError) -> None:
        self._watched.closed()
        await self._refusals.turn()
        record = self._record
        if record is None and self._policy is None:
            with contextlib.suppress(RefusedError):
                await self._decided_policy()
        if record is None and self._policy is not None:
            record = Record(self._services.audit, self._policy, method="-", host="-", port=0, target=None)
        try:
            if record:
                await record.refuse(refused)
        finally:
            _log.info("egress_refused", sandbox_id=self._sandbox_id, reason=refused.reason)
            await self._answer_refused(refused)

    async def _answer_refused(self, refused: RefusedError) -> None:
        if self._client.answered:
            return
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(LINGER_SECONDS):
                await self._client.channel.send(_refusal(refused))
            await self._linger()

    async def _linger(self) -> None:
        """Let a client that is still sending read its answer before the connection is gone."""
        await self._client.channel.end()
        left = MAX_LINGER_BYTES
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(LINGER_SECONDS):
                while left > 0 and (data := await self._socket.receive()):
                    left -= len(data)

    async def _tell_cut(self, cut: RefusedError) -> None:
        if self._record:
            with contextlib.suppress(UnrecordedError):
                await self._record.refuse(cut)
        await self._answer_refused(cut)

    async def _tell_lost(self, error: Exception) -> None:
        _log.info("egress_connection_lost", sandbox_id=self._sandbox_id, error=type(error).__name__)
        await self._record_lost()

    async def _record_lost(self) -> None:
        if self._record:
            with contextlib.suppress(UnrecordedError):
                await self._record.end("failed", "connection_lost", "The connection ended before the answer did.")


def _refusal(refused: RefusedError) -> bytes:
    # Many clients show of a refused CONNECT nothing but the reason phrase, so the sentence is in both places.
    body = (refused.message + "\n").encode("ascii", "replace")
    phrase = body.partition(b". ")[0].strip().removesuffix(b".")
    allow = b"Allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n" if refused.status == 405 else b""
    return (
        b"HTTP/1.1 %d %b\r\nContent-Type: text/plain\r\nContent-Length: %d\r\nX-Bulkhead-Reason: %b\r\n"
        b"%bConnection: close\r\n\r\n%b"
    ) % (refused.status, phrase, len(body), refused.reason.encode(), allow, body)


def _authority(text: str) -> Destination:
    try:
        return parse_authority(text, "https")
    except DestinationError as error:
        raise RefusedError(
            "bad_destination", f"The request names no valid destination: {error}.", status=400
        ) from error


def _absolute(target: str) -> tuple[Destination, str]:
    scheme, separator, rest = target.partition("://")
    if not separator or scheme.lower() != "http":
        raise RefusedError(
            "not_a_proxy_request",
            "This is a proxy: ask it for http:// addresses in full, and for https:// with CONNECT.",
            status=400,
        )
    authority, slash, path = rest.partition("/")
    authority, mark, query = authority.partition("?")
    try:
        destination = parse_authority(authority, "http", default_port=80)
    except DestinationError as error:
        raise RefusedError(
            "bad_destination", f"The request names no valid destination: {error}.", status=400
        ) from error
    return destination, f"/{mark}{query}{slash}{path}" if mark else f"/{path}"


def _check_host(request: RequestHead, destination: Destination) -> None:
    value = request.value(b"host")
    if value is None:
        return
    text = value.decode("latin-1")
    # In a CONNECT some clients leave the port out of the Host header, which is then the tunnel's.
    if request.method == b"CONNECT" and text == destination.host:
        return
    if "@" in text:
        raise RefusedError("bad_destination", "The Host header holds user information.", status=400)
    if not destination.is_named_by(text):
        raise RefusedError(
            "host_mismatch", f"The Host header names another host than {destination.host}, which was asked for."
        )


def _same_mode(policy: SandboxPolicy, destination: Destination, ruling: Ruling) -> bool:
    try:
        return judge_destination(policy, destination).mode == ruling.mode
    except RefusedError:
        return False
