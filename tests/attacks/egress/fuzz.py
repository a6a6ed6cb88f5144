"""An atheris target for the request path: what a client sends, to the ear or inside TLS, up to what comes of it.

`python -m tests.attacks.egress.fuzz --seconds 60` begins with a fixed corpus and ends with an error on a crash, or if
an input breaks what must always hold (`_check`). Hosts are on loopback; ``--input FILE`` runs one that was found.
"""

import argparse
import asyncio
import contextlib
import socket
import ssl
import sys
import tempfile
from pathlib import Path
from typing import Any

import atheris
import structlog

with atheris.instrument_imports(include=["sandbox.egress"], enable_loader_override=False):
    from sandbox.egress.addresses import AddressRules
    from sandbox.egress.certificates import Certificates
    from sandbox.egress.connection import Connection, Services
    from sandbox.egress.contract import Binding, GrantedCredential, SandboxPolicy
    from sandbox.egress.destination import Destination
    from sandbox.egress.pace import RefusalPace
    from sandbox.egress.revocation import Watch
    from sandbox.egress.scrub import forms
    from sandbox.egress.tunnel import Buffers
    from sandbox.egress.upstream import Dialler, upstream_context

from tests.support.egress import (
    MemoryAudit,
    MemoryPolicies,
    Received,
    RootAuthority,
    StaticResolver,
    TestHost,
    answer,
)

_STUB = "bhstub_0123456789ABCDEFGHIJabcdef"
_SECRET = "the-s3cret-of-api.test"
_FORMS = forms(_SECRET.encode())
_END_SECONDS = 10
"""For one input, after its client has left; nothing waits that long for anything."""
_BOUND = "api.test"
_HEADS = (
    "GET / HTTP/1.1|Host: {host}",
    "GET /ok/a?b=c HTTP/1.1|Host: {host}|Authorization: Bearer {stub}",
    "GET /ok HTTP/1.1|Host: {host}|Authorization: Basic bWU6Ymhz",
    "POST /ok HTTP/1.1|Host: {host}|Authorization: Bearer {stub}|Content-Length: 3||abc",
    "POST /ok HTTP/1.1|Host: {host}|Transfer-Encoding: chunked||3|abc|0||GET /ok HTTP/1.1|Host: {host}",
    "POST /ok HTTP/1.1|Host: {host}|Expect: 100-continue|Content-Length: 3||abc",
    "GET /ok HTTP/1.1|Host: {host}|Connection: Upgrade|Upgrade: websocket|X-Api-Key: {stub}",
    "GET /ok HTTP/1.1|Host: {host}|Cookie: a={stub}",
    "GET /ok?access_token={stub} HTTP/1.1|Host: {host}|User-Agent: {stub}",
    "TRACE /%2e%2e/ HTTP/1.1|Host: {host}|Content-Length: 4|Transfer-Encoding: chunked",
    "GET https://evil.test/ HTTP/1.1|Host: evil.test",
    "GET /okay HTTP/1.1|Host: {host}|Authorization: Bearer {stub}",
    "DELETE /ok HTTP/1.1|Host: {host}|Authorization: Bearer {stub}",
    "GET /ok/../no HTTP/1.1|Host: {host}|Authorization: Bearer {stub}",
    "GET /ok HTTP/1.1|Host: API.test.|Authorization: token {stub}|Connection: close",
    "GET /ok HTTP/1.1|Host: {host}|Authorization: Bearer {stub}|X-Note: {stub}",
    "POST / HTTP/1.1|Host: {host}|Transfer-Encoding: chunked||3|abc|21|{stub}|0|",
    "POST /ok HTTP/1.1|Host: {host}|Transfer-Encoding: chunked||3;a=b|abc|1|d|0;x|X-Checksum: 1|",
    "POST /ok HTTP/1.1|Host: {host}|Connection: Content-Length|Content-Length: 35||GET /other HTTP/1.1|Host: {host}",
    "POST /ok HTTP/1.1|Host: {host}|Content-Length: 3|Content-Length: 3|Transfer-Encoding: chunked||abc",
)
_OPENINGS = (
    "CONNECT api.test:443 HTTP/1.1|Host: api.test:443",
    "CONNECT evil.test:443 HTTP/1.1|Host: evil.test:443",
    "CONNECT [::ffff:127.0.0.1]:443 HTTP/1.0",
    "GET http://open.test/a?b HTTP/1.1|Host: open.test",
    "POST http://open.test/ HTTP/1.1|Host: open.test|Content-Length: 40||{stub}",
    "GET http://open.test/ HTTP/1.1|Host: open.test|Authorization: Bearer {stub}",
    "GET http://api.test/ HTTP/1.1|Host: api.test|Authorization: Bearer {stub}",
    "GET http://2130706433/ HTTP/1.1|Host: 2130706433",
)
_WORDS = (
    _STUB, "bhstub_", "Host: ", "api.test", "open.test", "evil.test", "Content-Length: ", "Authorization: ",
    "Transfer-Encoding: chunked", "Bearer ", "Basic ", "HTTP/1.1", "CONNECT ", "http://", "https://", "%2e",
    "0\\x0d\\x0a\\x0d\\x0a", "\\x0d\\x0a", "\\x0d\\x0a\\x0d\\x0a", "Expect: 100-continue", "Upgrade: websocket",
    "Connection: close", "Connection: Content-Length", ";a=b", "X-Checksum: 1",
)  # fmt: skip


class Broken(Exception):
    """Something that must always hold did not."""


class _Inside(Connection):
    """A connection whose client has agreed on TLS with the proxy: what it sends is what would have been decrypted."""

    async def _requests(self, tunnel: Destination | None) -> None:
        await super()._requests(Destination("https", _BOUND, 443))


class Target:
    """The proxy's own parts with hosts around them; runs one input after another."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(self._failed)
        self._problems: list[str] = []
        self._policies, self._audit = MemoryPolicies(), MemoryAudit()
        self._loop.run_until_complete(self._start())

    def __call__(self, data: bytes) -> None:
        """Run an input: its first byte says whether it is sent to the ear or inside a bound host's tunnel."""
        self._problems.clear()
        self._audit.entries.clear()
        for host in (self._bound, self._open):
            host.received.clear()
            host.raw.clear()
        self._loop.run_until_complete(self._one(_Inside if data[:1] >= b"\x80" else Connection, data[1:]))

    async def _start(self) -> None:
        root = RootAuthority(self._folder)
        self._bound = await TestHost(root.server_context(_BOUND), answer("ok")).__aenter__()
        self._open = await TestHost(None, answer("ok")).__aenter__()
        pins = {_BOUND: ("127.0.0.1", self._bound.port), "open.test": ("127.0.0.1", self._open.port)}
        dialler = Dialler(AddressRules(hosts=pins), StaticResolver(), upstream_context(root.file))
        watch = Watch(self._policies)
        self._services = Services(self._policies, self._audit, dialler, Certificates(), watch, Buffers())
        binding = Binding(hosts=[_BOUND], methods=["GET", "POST"], path_prefixes=["/ok"])
        token = GrantedCredential(credential_id="vcrd_fuzz", name="TOKEN", stub=_STUB, binding=binding)
        self._policies.secrets["vcrd_fuzz"] = _SECRET
        self._policies.policies["sbx_fuzz"] = SandboxPolicy(
            sandbox_id="sbx_fuzz",
            session_id="sesn_fuzz",
            workspace_id="wrkspc_fuzz",
            networking="limited",
            allowed_hosts=[_BOUND, "open.test"],
            credentials=[token],
        )

    def _failed(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        # A request that is given up half-way ends its upstream connection; that is how a host is to see it.
        if "peer closed connection without" not in str(context.get("exception")):
            self._problems.append(f"{context['message']}: {context.get('exception')!r}")

    async def _one(self, kind: type[Connection], data: bytes) -> None:
        near, far = socket.socketpair()
        serving = asyncio.create_task(self._serve(kind, far))
        reader, writer = await asyncio.open_connection(sock=near)
        seen = b""
        try:
            async with asyncio.timeout(_END_SECONDS):
                with contextlib.suppress(OSError):
                    writer.write(data)
                    writer.write_eof()
                    seen = await reader.read()
                writer.transport.abort()
                await serving
        except TimeoutError as error:
            raise Broken("a connection whose client has left does not end") from error
        finally:
            writer.transport.abort()
        self._check(seen)

    async def _serve(self, kind: type[Connection], accepted: socket.socket) -> None:
        await kind(self._services, "sbx_fuzz", accepted, refusals=RefusalPace()).run()

    def _check(self, seen: bytes) -> None:
        """Raise `Broken` if anything is not as it must be after any input."""
        entries, received = self._audit.entries, [*self._bound.received, *self._open.received]
        allowed = {each.exchange_id for each in entries if not each.ended}
        ended = [each for each in entries if each.ended]
        _must(not self._problems, f"unhandled: {self._problems}")
        _must(len(received) <= len(allowed), "a host was asked without a record before")
        _must(allowed <= {each.exchange_id for each in ended}, "a record has no end")
        refused = [each for each in ended if each.verdict != "allowed"]
        _must(seen.count(b"X-Bulkhead-Reason: ") <= len(refused), "a refusal has no record")
        _must(not any(form in self._open.raw for form in _FORMS), "the secret went to a host that is not bound")
        _must(not any(form in seen for form in _FORMS), "the client has seen the secret")
        told = "".join(each.model_dump_json() for each in entries)
        _must(_STUB not in told and _SECRET not in told, "the audit holds a stub or a secret")
        for host in (self._bound, self._open):
            _must(_STUB.encode() not in host.raw, "a stub has passed")
        for each in self._bound.received:
            _must(each.header("host") == _BOUND, "a bound host was asked for another")
            _must(_SECRET not in str(each.headers) or _may_have_it(each), "the secret went beyond its binding")


def _may_have_it(request: Received) -> bool:
    path = request.target.partition("?")[0]
    return request.method in {"GET", "POST"} and (path == "/ok" or path.startswith("/ok/"))


def _must(holds: bool, otherwise: str) -> None:
    if not holds:
        raise Broken(otherwise)


def _write_corpus(folder: Path) -> None:
    for kind, heads in ((b"\x80", _HEADS), (b"\0", _OPENINGS)):
        for number, head in enumerate(heads):
            text = head.format(host=_BOUND, stub=_STUB).replace("|", "\r\n") + "\r\n\r\n"
            (folder / f"{kind.hex()}-{number}").write_bytes(kind + text.encode())
    incoming, hello = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(incoming, hello, server_hostname=_BOUND)
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    opening = f"CONNECT {_BOUND}:443 HTTP/1.1\r\nHost: {_BOUND}\r\n\r\n".encode()
    (folder / "hello").write_bytes(b"\0" + opening + hello.read())


def main() -> None:
    """Fuzz for some time, or run one input."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--input", type=Path, help="run this input only")
    options = parser.parse_args()
    # What the proxy logs of a connection is not of interest here, and would be most of the output.
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    with tempfile.TemporaryDirectory(prefix="bulkhead-fuzz-") as name:
        folder = Path(name)
        (folder / "corpus").mkdir()
        _write_corpus(folder / "corpus")
        (folder / "words").write_text("".join(f'"{word}"\n' for word in _WORDS))
        arguments = [
            f"-max_total_time={options.seconds}",
            "-max_len=4096",
            "-seed=1",
            "-timeout=30",
            "-len_control=0",
        ]
        arguments += [f"-dict={folder / 'words'}", f"-artifact_prefix={tempfile.gettempdir()}/bulkhead-fuzz-"]
        chosen = str(options.input) if options.input else str(folder / "corpus")
        atheris.Setup([sys.argv[0], *arguments, chosen], Target(folder))
        atheris.Fuzz()


if __name__ == "__main__":
    main()
