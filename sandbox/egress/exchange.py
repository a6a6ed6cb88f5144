"""One request and its answer: judged, rewritten, sent, and what comes back scrubbed."""

import asyncio
import contextlib
from typing import NamedTuple

from sandbox.egress.addresses import Endpoint
from sandbox.egress.audit import Record
from sandbox.egress.channel import Channel
from sandbox.egress.contract import GrantedCredential, PolicySource, SandboxPolicy
from sandbox.egress.destination import Destination
from sandbox.egress.heads import AnswerHead, Head, Headers, MessageError, RequestHead
from sandbox.egress.limits import MAX_SWAPPED_BODY_BYTES
from sandbox.egress.peers import ClientSide, UpstreamSide
from sandbox.egress.revocation import Watched
from sandbox.egress.rules import (
    FailedError,
    RefusedError,
    Ruling,
    check_method,
    check_path,
    check_use,
    credential_revoked,
    judge_destination,
)
from sandbox.egress.scrub import KnownForms, Scrubber
from sandbox.egress.stubs import (
    Secret,
    StubScanner,
    mentioned,
    mentioned_in,
    misplaced,
    refuse_left,
    swap_body,
    swap_headers,
    swap_target,
)
from sandbox.egress.tunnel import both, relay
from sandbox.egress.upstream import Dialler, Upstreams

_UNUSABLE = frozenset(b"\r\n\0")
_OURS = frozenset({b"host"})
_OURS_IF_READ = frozenset({b"host", b"accept-encoding", b"sec-websocket-extensions"})
_REPEATABLE = frozenset({b"GET", b"HEAD", b"OPTIONS"})


class Asked(NamedTuple):
    """A request that has been read: what it wants of which destination, under which policy."""

    policy: SandboxPolicy
    ruling: Ruling
    destination: Destination
    request: RequestHead
    target: bytes
    """In origin form."""

    @property
    def method(self) -> str:
        """The method as text."""
        return self.request.method.decode()


class _Outgoing(NamedTuple):
    """A request as it will be sent. ``body`` is None where it passes in a stream."""

    headers: Headers
    target: bytes
    secrets: dict[bytes, Secret]
    known: tuple[bytes, ...]
    """Every secret that the answer is searched for."""
    body: bytes | None


class Exchange:
    """Carries one request; everything that it needs is told to it."""

    def __init__(
        self,
        asked: Asked,
        *,
        client: ClientSide,
        upstreams: Upstreams,
        dialler: Dialler,
        policies: PolicySource,
        record: Record,
        watched: Watched,
        forms: KnownForms,
    ):
        self._asked = asked
        self._client = client
        self._upstreams = upstreams
        self._dialler = dialler
        self._policies = policies
        self._record = record
        self._watched = watched
        self._forms = forms
        self._scanner = StubScanner()
        self._refused: RefusedError | None = None
        self._body = client.body()
        self._begun = b""
        self._used: tuple[bytes, ...] = ()

    async def run(self) -> None:
        """Pass the request on and its answer back; raises `RefusedError`, `OSError`."""
        # From here on, so that what is taken back while the body still arrives is not sent either.
        self._watched.opened(self._asked.policy, self._still_allowed)
        outgoing = await self._prepare()
        self._watched.carrying()
        where = await self._dialler.vet(self._asked.destination)
        self._watched.deciding()
        self._record.credential = ",".join(sorted(each.credential.name for each in outgoing.secrets.values())) or None
        await self._record.allow()
        await self._watched.confirm(self._policies)
        self._watched.carrying()
        self._watched.answering = True
        upstream = await self._begin(outgoing, where)
        upload = asyncio.create_task(self._upload(upstream)) if self._streams(outgoing) else None
        try:
            await self._answer(upstream, outgoing)
        except (OSError, MessageError) as error:
            raise self._refused or self._lost() from error
        finally:
            if upload:
                upload.cancel()
                await asyncio.gather(upload, return_exceptions=True)
        if self._refused:
            raise self._refused
        if not upstream.is_reusable:
            self._upstreams.close()

    async def _prepare(self) -> _Outgoing:
        asked, bound = self._asked, self._asked.ruling.bound
        check_method(asked.method)
        check_path(asked.target.decode(), bound)
        headers = asked.request.end_to_end()
        body = await self._whole_body() if self._may_swap_body() else None
        stubs = mentioned(headers, asked.request.method + b" " + asked.target)
        if body:
            stubs |= mentioned_in(body)
        used = {stub: self._use(stub) for stub in stubs}
        self._used = tuple(used)
        secrets = await self._secrets(used)
        known = tuple(each.value for each in await self._known(secrets)) if bound else ()
        target = asked.target
        if bound:
            headers, target = swap_headers(headers, secrets), swap_target(target, secrets)
        refuse_left(headers, asked.request.method + b" " + target)
        if body:
            body = swap_body(body, asked.request.value(b"content-type") or b"", secrets)
            if mentioned_in(body):
                raise misplaced()
        headers = self._final_headers(headers, swapped=bool(secrets), body=body)
        return _Outgoing(headers, target, secrets, known, body)

    def _use(self, stub: bytes) -> GrantedCredential:
        text = stub.decode()
        for credential in self._asked.policy.credentials:
            if credential.stub == text:
                check_use(
                    credential, self._asked.destination, method=self._asked.method, target=self._asked.target.decode()
                )
                return credential
        raise RefusedError(
            "stub_not_valid",
            "The request holds a credential's placeholder that is not valid in this sandbox, or not any more.",
        )

    def _may_swap_body(self) -> bool:
        return self._client.wants_more and any(each.binding.body for each in self._asked.ruling.bound)

    async def _whole_body(self) -> bytes | None:
        """Return the body if it is small enough to be held; otherwise None, and what was read goes first later."""
        self._client.let_send()
        await self._client.flush()
        self._watched.uploading()
        held = bytearray()
        async for chunk in self._body:
            held += chunk
            if len(held) > MAX_SWAPPED_BODY_BYTES:
                self._begun = bytes(held)
                break
        self._watched.deciding()
        return None if self._begun else bytes(held)

    async def _secrets(self, used: dict[bytes, GrantedCredential]) -> dict[bytes, Secret]:
        found: dict[bytes, Secret] = {}
        for stub, credential in used.items():
            secret = await self._secret(credential)
            if secret is None:
                raise credential_revoked(credential)
            if _UNUSABLE.intersection(secret.value) or not secret.value:
                raise RefusedError(
                    "secret_unusable",
                    f"The secret of credential {credential.name} cannot be sent; store it again.",
                    credential=credential.name,
                )
            found[stub] = secret
        return found

    async def _known(self, secrets: dict[bytes, Secret]) -> list[Secret]:
        # Also those that this request does not use: a host may give back later what it was sent before.
        used = {each.credential.credential_id: each for each in secrets.values()}
        found: list[Secret] = []
        for credential in self._asked.ruling.bound:
            secret = used.get(credential.credential_id) or await self._secret(credential)
            found += [secret] if secret else []
        return found

    async def _secret(self, credential: GrantedCredential) -> Secret | None:
        try:
            secret = await self._policies.secret(self._asked.policy, credential.credential_id)
        # Whatever fails there: without the secret nothing is sent, and the stub is not sent either.
        except Exception as error:
            raise RefusedError(
                "secret_unavailable", "The credential cannot be read at the moment; try again.", status=503
            ) from error
        return Secret(credential, secret.get_secret_value().encode()) if secret is not None else None

    def _final_headers(self, headers: Headers, *, swapped: bool, body: bytes | None) -> Headers:
        dropped = _OURS_IF_READ if self._asked.ruling.mode == "intercept" else _OURS
        if swapped:
            # Parts of an answer could be asked for so that no part holds the whole secret.
            dropped |= {b"range", b"if-range"}
        if body is not None:
            dropped |= {b"expect"}
        kept = [(name, value) for name, value in headers if name.lower() not in dropped]
        added: Headers = [(b"Host", self._asked.destination.authority.encode())]
        if self._asked.ruling.mode == "intercept":
            added.append((b"Accept-Encoding", b"identity"))
        if self._asked.request.asks_for_websocket:
            added += [(b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")]
        length = self._asked.request.length if body is None else len(body)
        if length is not None:
            added.append((b"Content-Length", b"%d" % length))
        elif self._asked.request.is_chunked:
            added.append((b"Transfer-Encoding", b"chunked"))
        return added + kept

    def _streams(self, outgoing: _Outgoing) -> bool:
        return outgoing.body is None and (self._client.wants_more or bool(self._begun))

    async def _begin(self, outgoing: _Outgoing, where: list[Endpoint]) -> UpstreamSide:
        """Send what can be sent at once, again on a new connection if the kept one turns out to have ended."""
        kept = self._upstreams.kept(self._asked.destination)
        if kept and self._asked.request.method in _REPEATABLE and not self._streams(outgoing):
            with contextlib.suppress(OSError):
                upstream = await self._send_head(kept, outgoing)
                received = await upstream.fill()
                self._record.bytes_down += received
                if received:
                    return upstream
            kept = None
        try:
            return await self._send_head(kept or await self._upstreams.open(self._asked.destination, where), outgoing)
        except OSError as error:
            raise self._lost() from error

    async def _send_head(self, channel: Channel, outgoing: _Outgoing) -> UpstreamSide:
        request = self._asked.request
        upstream = UpstreamSide(channel, request.method, chunked=outgoing.body is None and request.is_chunked)
        self._record.bytes_up += await upstream.send_head(
            request.method,
            outgoing.target,
            outgoing.headers,
            body=outgoing.body or b"",
            whole=not self._streams(outgoing),
        )
        return upstream

    async def _upload(self, upstream: UpstreamSide) -> None:
        self._watched.uploading()
        try:
            await self._send_chunk(upstream, self._begun)
            async for chunk in self._body:
                await self._send_chunk(upstream, chunk)
            await self._send_chunk(upstream, b"", last=True)
            self._watched.carrying()
        except RefusedError as refused:
            self._refused = refused
            self._upstreams.abort()
        except OSError:
            # The upstream has answered early or left; its answer says which.
            return

    async def _send_chunk(self, upstream: UpstreamSide, chunk: bytes, *, last: bool = False) -> None:
        data = self._scanner.finish() if last else self._scanner.feed(chunk)
        self._record.bytes_up += await upstream.send_body(data, last=last)

    async def _answer(self, upstream: UpstreamSide, outgoing: _Outgoing) -> None:
        scrubber = Scrubber(self._forms.of(outgoing.known))
        head = await self._head(upstream)
        while head.status < 200:
            if head.status == 101:
                return await self._switch(upstream, head, scrubber)
            if head.status == 100:
                self._client.let_send()
            head = await self._head(upstream)
        self._begin_answer(head, scrubber, outgoing)
        while True:
            data = upstream.body()
            if data and (data := scrubber.feed(data)):
                self._client.add(data)
            if upstream.is_answered:
                return await self._end_answer(scrubber)
            await self._fill(upstream)

    async def _head(self, upstream: UpstreamSide) -> AnswerHead:
        while (head := upstream.head()) is None:
            await self._fill(upstream)
        return head

    async def _fill(self, upstream: UpstreamSide) -> None:
        await self._client.flush()
        self._record.bytes_down += await upstream.fill()

    def _begin_answer(self, head: AnswerHead, scrubber: Scrubber, outgoing: _Outgoing) -> None:
        self._record.status = head.status
        if outgoing.secrets and head.tokens(b"content-encoding") - {b"identity", b""}:
            raise FailedError(
                "encoded_answer",
                f"Host {self._asked.destination.host} answered in an encoding that cannot be searched for the "
                "credential, though it was asked not to, so the answer was not passed on.",
            )
        self._client.begin(
            head.status, scrubber.mask(head.reason), self._returned(head, scrubber), length=head.length
        )

    def _returned(self, head: Head, scrubber: Scrubber) -> Headers:
        # A host with a credential of ours gives no other: cookies would be a second way to be somebody there.
        bound = bool(self._asked.ruling.bound)
        kept = [(name, value) for name, value in head.end_to_end() if not (bound and name.lower() == b"set-cookie")]
        if scrubber.is_clean(b"\n".join([part for header in kept for part in header])):
            return kept
        return [(scrubber.mask(name), scrubber.mask(value)) for name, value in kept]

    async def _end_answer(self, scrubber: Scrubber) -> None:
        if self._refused:
            raise self._refused
        if data := scrubber.finish():
            self._client.add(data)
        self._client.end()
        await self._client.flush()

    async def _switch(self, upstream: UpstreamSide, head: Head, scrubber: Scrubber) -> None:
        # With a body that is still on its way there would be two who read from the client.
        if not self._asked.request.asks_for_websocket or self._client.wants_more:
            raise self._lost()
        self._record.status = 101
        self._watched.answering = False
        headers = [*self._returned(head, scrubber), (b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")]
        self._client.switch(headers)
        await self._client.flush()
        early, sent = scrubber.feed(upstream.rest), self._client.rest
        if early:
            await self._client.channel.send(early)
        if sent:
            await upstream.channel.send(sent)
        with contextlib.suppress(OSError):
            await both(
                relay(self._client.channel, upstream.channel, self._count_up),
                relay(upstream.channel, self._client.channel, lambda data: self._count_down(data, scrubber)),
            )

    def _count_up(self, data: bytes) -> bytes:
        self._record.bytes_up += len(data)
        return data

    def _count_down(self, data: bytes, scrubber: Scrubber) -> bytes:
        self._record.bytes_down += len(data)
        return scrubber.feed(data) if data else scrubber.finish()

    def _still_allowed(self, policy: SandboxPolicy) -> bool:
        granted = {each.stub: each for each in policy.credentials}
        try:
            ruling = judge_destination(policy, self._asked.destination)
            for stub in self._used:
                check_use(
                    granted[stub.decode()],
                    self._asked.destination,
                    method=self._asked.method,
                    target=self._asked.target.decode(),
                )
        except (RefusedError, KeyError):
            return False
        return ruling.mode == self._asked.ruling.mode

    def _lost(self) -> FailedError:
        return FailedError(
            "upstream_lost", f"Host {self._asked.destination.host} ended the connection without a valid answer."
        )
