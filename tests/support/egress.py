"""A stage for the egress proxy: policies and audit in memory, hosts on loopback, and a client that may lie."""

import asyncio
import contextlib
import ipaddress
import secrets
import socket
import ssl
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import h11
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from pydantic import SecretStr

from sandbox.egress.addresses import AddressRules, Network
from sandbox.egress.certificates import Authority
from sandbox.egress.contract import AuditEntry, AuthorityError, Binding, GrantedCredential, SandboxPolicy
from sandbox.egress.destination import Address
from sandbox.egress.server import EgressSettings, Proxy

CANARY = 'canary-S3cr3t/+&"é-value-9f2c'
_KEPT = 1_000_000
_FAR = 5.0
"""Seconds that a client waits for what must come; only a failing test waits that long."""


class MemoryPolicies:
    """A `PolicySource` in memory. ``broken`` makes every answer an error; ``unmade``: why there is no authority."""

    def __init__(self) -> None:
        self.policies: dict[str, SandboxPolicy] = {}
        self.secrets: dict[str, str] = {}
        self.seeds: dict[str, bytes] = {}
        self.broken = False
        self.unmade = ""
        self.secrets_broken = False

    async def policy(self, sandbox_id: str) -> SandboxPolicy | None:
        """Return the policy as it is now."""
        if self.broken:
            raise ConnectionError("the store is away")
        return self.policies.get(sandbox_id)

    async def secret(self, policy: SandboxPolicy, credential_id: str) -> SecretStr | None:
        """Return a secret if the credential is still granted."""
        if self.secrets_broken:
            raise ConnectionError("the store is away")
        granted = any(each.credential_id == credential_id for each in self.policies[policy.sandbox_id].credentials)
        return SecretStr(self.secrets[credential_id]) if granted and credential_id in self.secrets else None

    async def authority_seed(self, session_id: str) -> bytes:
        """Return the session's seed."""
        if self.unmade:
            raise AuthorityError(self.unmade)
        return self.seeds.setdefault(session_id, secrets.token_bytes(32))

    def change(self, sandbox_id: str, **changes: object) -> None:
        """Change a policy, as a transaction would: with its epoch."""
        old = self.policies[sandbox_id]
        self.policies[sandbox_id] = old.model_copy(update={**changes, "epoch": old.epoch + 1})


class MemoryAudit:
    """An `AuditSink` in memory. ``broken`` makes it refuse; ``then`` happens as soon as an entry is kept."""

    def __init__(self) -> None:
        self.entries: list[AuditEntry] = []
        self.broken = False
        self.then: Callable[[], None] = lambda: None
        self._told = asyncio.Condition()

    async def record(self, entry: AuditEntry) -> None:
        """Keep an entry."""
        if self.broken:
            raise ConnectionError("the store is away")
        self.entries.append(entry)
        self.then()
        async with self._told:
            self._told.notify_all()

    @property
    def ended(self) -> list[AuditEntry]:
        """What has come to its end."""
        return [entry for entry in self.entries if entry.ended]

    async def wait(self, count: int = 1) -> AuditEntry:
        """Return the last ended entry when there are ``count``: the proxy tells of an end after the client has it."""
        async with asyncio.timeout(_FAR), self._told:
            await self._told.wait_for(lambda: len(self.ended) >= count)
        return self.ended[-1]


class StaticResolver:
    """A `Resolver` with a table; keeps what it was asked. Answers are used up one by one, the last one stays."""

    def __init__(self, table: dict[str, list[list[str]]] | None = None):
        self.table = table or {}
        self.asked: list[str] = []

    async def resolve(self, host: str) -> Sequence[Address]:
        """Return the next answer for a name."""
        self.asked.append(host)
        answers = self.table.get(host)
        if not answers:
            raise socket.gaierror("no such name")
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        return [ipaddress.ip_address(each) for each in answer]


class RootAuthority:
    """A root for test hosts, as a company's own would be."""

    def __init__(self, folder: Path):
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test root")])
        self._folder = folder
        self.file = folder / "root.pem"
        self.file.write_bytes(self._sign(self._name, self._key, [], is_root=True).public_bytes(Encoding.PEM))

    def server_context(self, *names: str, expired: bool = False) -> ssl.SSLContext:
        """Return a context for a server with these names."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate(*names, expired=expired))
        context.set_alpn_protocols(["http/1.1"])
        return context

    def certificate(self, *names: str, expired: bool = False) -> Path:
        """Return a file with a new key and its certificate for these names, in PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._sign(x509.Name([]), key, list(names), expired=expired)
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        path = self._folder / f"{secrets.token_hex(4)}.pem"
        path.write_bytes(private + certificate.public_bytes(Encoding.PEM))
        return path

    def _sign(
        self,
        name: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        names: list[str],
        *,
        is_root: bool = False,
        expired: bool = False,
    ) -> x509.Certificate:
        now = datetime.now(UTC) - timedelta(days=3 if expired else 0)
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=is_root, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        if is_root:
            usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
            builder = builder.add_extension(usage, critical=True)
        if names:
            alternatives = x509.SubjectAlternativeName([x509.DNSName(each) for each in names])
            builder = builder.add_extension(alternatives, critical=not name.rdns)
        return builder.sign(self._key, SHA256())


@dataclass
class Received:
    """A request as a host saw it."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes = b""

    def header(self, name: str) -> str | None:
        """Return a header's value."""
        return next((value for each, value in self.headers if each.lower() == name.lower()), None)


Behaviour = Callable[[Received, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def answer(body: bytes | str = b"", status: str = "200 OK", headers: Sequence[tuple[str, str]] = ()) -> Behaviour:
    """Return a behaviour that answers always the same."""
    content = body.encode() if isinstance(body, str) else body

    async def behave(_: Received, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines = [
            f"HTTP/1.1 {status}",
            f"Content-Length: {len(content)}",
            *(f"{name}: {value}" for name, value in headers),
        ]
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + content)

    return behave


def raw_answer(*parts: bytes, pause: float = 0.0) -> Behaviour:
    """Return a behaviour that writes these bytes, one part after another, and ends the connection."""

    async def behave(_: Received, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(pause)
        writer.close()

    return behave


class TestHost:
    """A server of somebody else on loopback, with TLS or without; keeps every byte and every request it got."""

    __test__ = False

    def __init__(self, context: ssl.SSLContext | None, behaviour: Behaviour):
        self.behaviour = behaviour
        self.received: list[Received] = []
        self.raw = bytearray()
        self.connections = 0
        self.keeps_bodies = True
        self._moved = asyncio.Event()
        self._writers: set[asyncio.StreamWriter] = set()
        self._context = context
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0

    async def __aenter__(self) -> "TestHost":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._context)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0)

    def drop(self) -> None:
        """End every connection, as a server does that is restarted."""
        for writer in self._writers:
            writer.transport.abort()

    async def wait_for(self, ending: bytes) -> None:
        """Wait until what has come ends with these bytes."""
        async with asyncio.timeout(_FAR):
            while not self.raw.endswith(ending):
                self._moved.clear()
                await self._moved.wait()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.connections += 1
        self._writers.add(writer)
        try:
            while request := await self._read(reader, writer):
                self.received.append(request)
                await self.behaviour(request, reader, writer)
                await writer.drain()
                if writer.is_closing():
                    break
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._writers.discard(writer)
            writer.transport.abort() if writer.is_closing() else writer.close()

    async def _read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Received | None:
        connection = h11.Connection(h11.SERVER)
        request: Received | None = None
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                data = await reader.read(65536)
                self.raw += data[: max(0, _KEPT - len(self.raw))]
                self._moved.set()
                connection.receive_data(data)
            elif isinstance(event, h11.Request):
                headers = [(name.decode(), value.decode("latin-1")) for name, value in event.headers]
                request = Received(event.method.decode(), event.target.decode(), headers)
                if ("expect", "100-continue") in headers:
                    writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                if request.header("upgrade"):
                    return request
            elif isinstance(event, h11.Data) and request:
                request.body += bytes(event.data) if self.keeps_bodies else b""
            elif isinstance(event, h11.EndOfMessage):
                return request
            else:
                return None


@dataclass
class Answer:
    """What a client got."""

    status: int
    headers: dict[str, str]
    body: bytes
    reason: str = ""
    complete: bool = True

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode(errors="replace")


class Client:
    """A program in the sandbox, speaking to the proxy's ear; sends what it is told, right or wrong."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        self.reader = reader
        self.writer = writer
        self.seen = bytearray()
        self._left = b""

    async def send(self, data: bytes | str) -> None:
        """Send bytes as they are; an end of the connection is noticed when reading."""
        with contextlib.suppress(OSError):
            self.writer.write(data.encode() if isinstance(data, str) else data)
            await self.writer.drain()

    async def answer(self, method: str = "GET") -> Answer:
        """Read one answer; ``complete`` is False if it was cut short. Raises `ConnectionError` if there is none."""
        connection = h11.Connection(h11.CLIENT)
        connection.send(h11.Request(method=method, target="/", headers=[("host", "x")]))
        connection.send(h11.EndOfMessage()) if method != "CONNECT" else None
        found: Answer | None = None
        connection.receive_data(self._left) if self._left else None
        async with asyncio.timeout(_FAR):
            while True:
                try:
                    event = connection.next_event()
                    if event is h11.NEED_DATA:
                        connection.receive_data(await self._read())
                        continue
                except h11.RemoteProtocolError as error:
                    if found is None:
                        raise ConnectionError("there was no answer") from error
                    found.complete = False
                    return found
                if isinstance(event, h11.Response):
                    headers = {name.decode(): value.decode("latin-1") for name, value in event.headers}
                    found = Answer(event.status_code, headers, b"", event.reason.decode("latin-1"))
                elif isinstance(event, h11.Data) and found:
                    found.body += bytes(event.data)
                elif isinstance(event, h11.EndOfMessage | type(h11.PAUSED)) and found:
                    self._left = connection.trailing_data[0]
                    return found
                elif isinstance(event, h11.ConnectionClosed):
                    raise ConnectionError("there was no answer")

    async def ask(self, request: bytes | str, method: str = "GET") -> Answer:
        """Send bytes and read the answer."""
        await self.send(request)
        return await self.answer(method)

    async def rest(self) -> bytes:
        """Read to the connection's end."""
        data = self._left
        async with asyncio.timeout(_FAR):
            while more := await self._read():
                data += more
        return data

    async def secure(self, name: str | None, ca_file: Path | None) -> None:
        """Begin TLS; raises `OSError` if it does not come about."""
        context = ssl.create_default_context(cafile=str(ca_file) if ca_file else None)
        context.set_alpn_protocols(["http/1.1"])
        if ca_file is None or name is None:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        async with asyncio.timeout(_FAR):
            await self.writer.start_tls(context, server_hostname=name)

    def close(self) -> None:
        """Leave."""
        self.writer.transport.abort()

    async def _read(self) -> bytes:
        try:
            data = await self.reader.read(65536)
        except OSError:
            return b""
        self.seen += data[: max(0, _KEPT - len(self.seen))]
        return data


@dataclass
class Stage:
    """A proxy with everything around it."""

    folder: Path
    policies: MemoryPolicies
    audit: MemoryAudit
    resolver: StaticResolver
    root: RootAuthority
    pins: dict[str, tuple[str, int]]
    proxy: Proxy
    ports: dict[str, int] = field(default_factory=dict[str, int])
    clients: list[Client] = field(default_factory=list[Client])
    stack: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)

    async def host(
        self, *names: str, behaviour: Behaviour | None = None, tls: bool = True, context: ssl.SSLContext | None = None
    ) -> TestHost:
        """Start a host and pin its names to it."""
        chosen = (context or self.root.server_context(*names)) if tls else None
        started = await self.stack.enter_async_context(TestHost(chosen, behaviour or answer("hello")))
        self.pins.update(dict.fromkeys(names, ("127.0.0.1", started.port)))
        return started

    async def sandbox(self, sandbox_id: str = "sbx_a", **policy: object) -> str:
        """Attach a sandbox with a policy."""
        defaults = {"networking": "limited", "session_id": f"sesn_{sandbox_id}", "workspace_id": "wrkspc_test"}
        self.policies.policies[sandbox_id] = SandboxPolicy.model_validate(
            {"sandbox_id": sandbox_id, **defaults, **policy}
        )
        listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.ports[sandbox_id] = listener.getsockname()[1]
        await self.proxy.attach(sandbox_id, listener)
        return sandbox_id

    def credential(self, name: str, hosts: list[str], secret: str = CANARY, **binding: object) -> GrantedCredential:
        """Make a credential with a stub of its own; put it into a policy to grant it."""
        self.policies.secrets[f"vcrd_{name}"] = secret
        return GrantedCredential(
            credential_id=f"vcrd_{name}",
            name=name,
            stub=new_stub(),
            binding=Binding.model_validate({"hosts": hosts, **binding}),
        )

    async def client(self, sandbox_id: str = "sbx_a") -> Client:
        """Connect to a sandbox's ear."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.ports[sandbox_id])
        client = Client(reader, writer)
        self.clients.append(client)
        self.stack.callback(client.close)
        return client

    async def session_ca(self, sandbox_id: str = "sbx_a") -> Path:
        """Return the file with the root that the sandbox trusts for decrypted hosts, and the test root with it."""
        session_id = self.policies.policies[sandbox_id].session_id
        path = self.folder / f"{session_id}.pem"
        seed = await self.policies.authority_seed(session_id)
        path.write_bytes(Authority(session_id, seed).certificate_pem + self.root.file.read_bytes())
        return path

    async def tunnel(self, host: str, sandbox_id: str = "sbx_a", *, port: int = 443) -> Client:
        """Connect and begin TLS to a host, as an honest client does."""
        client = await self.client(sandbox_id)
        opened = await client.ask(f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n", "CONNECT")
        if opened.status != 200:
            raise ConnectionError(f"{opened.status} {opened.text}")
        await client.secure(host, await self.session_ca(sandbox_id))
        return client


def new_stub() -> str:
    """Return a stub like the vault's."""
    alphabet = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    return "bhstub_" + "".join(secrets.choice(alphabet) for _ in range(26))


def get(path: str, host: str, *headers: str, method: str = "GET", body: bytes = b"") -> bytes:
    """Write a request."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", *headers]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@contextlib.asynccontextmanager
async def staged(
    *, table: dict[str, list[list[str]]] | None = None, allow_cidrs: tuple[Network, ...] = ()
) -> AsyncGenerator[Stage]:
    """Set a stage, and clear it."""
    with tempfile.TemporaryDirectory() as folder:
        root = RootAuthority(Path(folder))
        policies, audit, resolver = MemoryPolicies(), MemoryAudit(), StaticResolver(table)
        pins: dict[str, tuple[str, int]] = {}
        settings = EgressSettings(root.file, AddressRules(allow_cidrs, pins))
        async with Proxy(policies=policies, audit=audit, resolver=resolver, settings=settings) as proxy:
            stage = Stage(Path(folder), policies, audit, resolver, root, pins, proxy)
            async with stage.stack:
                yield stage
