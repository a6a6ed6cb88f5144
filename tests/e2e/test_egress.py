"""Ordinary programs in a sandbox reach the hosts that are allowed and no others, with secrets that they never see.

The hosts are servers of this test on loopback; the proxy is told where they are, as an installation would tell it of
its private ones. Nothing leaves this machine.
"""

import asyncio
import base64
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from sandbox.docker import docker_available
from tests.support.canary import Canary, Seeker
from tests.support.client import Client, run, script
from tests.support.egress import Behaviour, Received, RootAuthority, TestHost, answer
from tests.support.places import search
from tests.support.stack import Stack
from tests.support.watch import Watcher

pytestmark = pytest.mark.slow

CANARY, OTHER_CANARY = Canary("the way out", special="-._~"), Canary("the other way out", special="-._~")
SECRET, OTHER_SECRET = CANARY.value, OTHER_CANARY.value
NAMES = ("files.test", "other.test", "api.test", "second.test", "plain.test")
PROVIDERS = [pytest.param("namespace"), pytest.param("docker", marks=pytest.mark.docker)]


@dataclass
class Hands:
    """A session whose only use is to run commands."""

    client: Client
    session_id: str
    watcher: Watcher
    turns: int = 0

    async def run(self, command: str) -> str:
        """Run a command in the session's sandbox and return what the model is told."""
        self.turns += 1
        await self.client.say(self.session_id, script(run(command), {"text": "done"}))
        await self.watcher.until_idle(times=self.turns, timeout_seconds=40)
        return self.watcher.of("agent.tool_result")[-1]["content"][0]["text"]

    async def audit(self, *, host: str) -> list[dict[str, Any]]:
        """Return what is recorded of a host."""
        found = await self.client.get(f"/v1/sessions/{self.session_id}/egress", limit="100")
        return [each for each in found["data"] if each["host"] == host]


def served(folder: Path, *, authorization: str | None = None) -> Behaviour:
    """Serve a folder's files, to everybody or to who sends the right header."""

    async def behave(asked: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if authorization is not None and asked.header("authorization") != authorization:
            refused = answer("who are you?", status="401 Unauthorized", headers=[("WWW-Authenticate", "Basic")])
            return await refused(asked, reader, writer)
        path = folder / asked.target.partition("?")[0].strip("/")
        path = path / "index.html" if path.is_dir() else path
        kind = [("Content-Type", "text/html")] if path.suffix == ".html" else []
        found = answer(path.read_bytes(), headers=kind) if path.is_file() else answer("no", status="404 Not Found")
        return await found(asked, reader, writer)

    return behave


def make_content(root: Path) -> None:
    """A git repository, a Python index, an npm registry and an apt repository, each with one small package."""
    _make_repository(root / "repo.git", root / "checkout")
    _make_python_index(root / "simple" / "tinything")
    _make_npm_registry(root / "tinymodule")
    _make_apt_repository(root / "apt")


def _make_repository(bare: Path, checkout: Path) -> None:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "init.defaultBranch=main"]
    checkout.mkdir(parents=True)
    (checkout / "README").write_text("from the repository\n")
    for arguments in (["init", "-q"], ["add", "."], [*identity, "commit", "-q", "-m", "first"]):
        subprocess.run(["git", *arguments], cwd=checkout, check=True, timeout=30)
    subprocess.run(["git", "clone", "-q", "--bare", str(checkout), str(bare)], check=True, timeout=30)
    subprocess.run(["git", "update-server-info"], cwd=bare, check=True, timeout=30)


def _make_python_index(folder: Path) -> None:
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / "tinything-1.0-py3-none-any.whl", "w") as wheel:
        info = "tinything-1.0.dist-info"
        wheel.writestr("tinything.py", "SAYS = 'from the index'\n")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tinything\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", f"tinything.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    (folder / "index.html").write_text('<a href="tinything-1.0-py3-none-any.whl">tinything</a>')


def _make_npm_registry(folder: Path) -> None:
    folder.mkdir()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        package = {"name": "tinymodule", "version": "1.0.0", "main": "index.js"}
        for name, text in (("package.json", json.dumps(package)), ("index.js", "module.exports = 'from npm'")):
            entry = tarfile.TarInfo(f"package/{name}")
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))
    (folder / "t.tgz").write_bytes(buffer.getvalue())
    integrity = "sha512-" + base64.b64encode(hashlib.sha512(buffer.getvalue()).digest()).decode()
    dist = {"tarball": "https://files.test/tinymodule/t.tgz", "integrity": integrity}
    listed = {
        "name": "tinymodule",
        "dist-tags": {"latest": "1.0.0"},
        "versions": {"1.0.0": {**package, "dist": dist}},
    }
    (folder / "index.html").write_text(json.dumps(listed))


def _make_apt_repository(folder: Path) -> None:
    folder.mkdir()
    packages = "Package: tinydeb\nVersion: 1.0\nArchitecture: all\nMaintainer: t\nDescription: from apt\n"
    digest = hashlib.sha256(packages.encode()).hexdigest()
    fields = f"Filename: ./t.deb\nSize: 1\nSHA256: {digest}\n\n"
    (folder / "Packages").write_text(packages + fields)
    digest = hashlib.sha256((packages + fields).encode()).hexdigest()
    size = len(packages + fields)
    (folder / "Release").write_text(f"Date: Sat, 01 Jan 2000 00:00:00 UTC\nSHA256:\n {digest} {size} Packages\n")


@dataclass
class World:
    """The hosts, the control plane that knows where they are, and a client of it."""

    stack: Stack
    client: Client
    hosts: dict[str, TestHost]
    vault_id: str
    credential_ids: dict[str, str]

    @asynccontextmanager
    async def hands(self, **more: Any) -> AsyncGenerator[Hands]:
        """Open a session, and watch it."""
        session_id = await self.client.session(**more)
        async with Watcher(self.stack.url, self.stack.api_key, session_id) as watcher:
            yield Hands(self.client, session_id, watcher)

    def kill(self, *parts: str) -> None:
        """End parts of the control plane as hard as can be."""
        pids = self.stack.parts()
        for part in parts:
            os.kill(pids[part], signal.SIGKILL)


@pytest.fixture(scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[World]:
    """One control plane for all tests here; its secrets are searched for when they are through."""
    folder = tmp_path_factory.mktemp("egress")
    content = folder / "content"
    make_content(content)
    basic = "Basic " + base64.b64encode(f"x:{SECRET}".encode()).decode()
    behaviours: dict[str, Behaviour] = {
        "files.test": served(content),
        "git.test": served(content, authorization=basic),
        **dict.fromkeys(("other.test", "api.test", "second.test", "plain.test"), answer("hello")),
    }
    root = RootAuthority(folder)
    async with AsyncExitStack() as open_now:
        hosts = {
            name: await open_now.enter_async_context(
                TestHost(None if name == "plain.test" else root.server_context(name), behaviour)
            )
            for name, behaviour in behaviours.items()
        }
        pins = ",".join(f"{name}=127.0.0.1:{host.port}" for name, host in hosts.items())
        stack = Stack(
            folder / "data",
            environment={"BULKHEAD_EGRESS_CA_FILE": str(root.file), "BULKHEAD_EGRESS_HOSTS": pins},
        )
        open_now.callback(stack.end)
        stack.start()
        await asyncio.to_thread(stack.wait_ready)
        client = await open_now.enter_async_context(Client(stack))
        vault_id = (await client.post("/v1/vaults", {"display_name": "v"}))["id"]
        credentials = {
            name: await stored(client, vault_id, name=name, secret=secret, hosts=bound)
            for name, secret, bound in (
                ("API_TOKEN", SECRET, ["api.test"]),
                ("SECOND_TOKEN", OTHER_SECRET, ["second.test"]),
                ("GIT_TOKEN", SECRET, ["git.test"]),
            )
        }
        yield World(stack, client, hosts, vault_id, credentials)
        seeker = Seeker(CANARY, OTHER_CANARY)
        await stack.ready_again()
        await search(stack, seeker)
        seeker.verdict()


async def stored(client: Client, vault_id: str, *, name: str, secret: str, hosts: list[str]) -> str:
    """Store a credential."""
    auth = {
        "type": "environment_variable",
        "secret_name": name,
        "secret_value": secret,
        "networking": {"type": "limited", "allowed_hosts": hosts},
    }
    return (await client.post(f"/v1/vaults/{vault_id}/credentials", {"auth": auth}))["id"]


def limited(*hosts: str, provider: str = "namespace") -> dict[str, Any]:
    """An environment that reaches these hosts."""
    return {"provider": provider, "networking": {"type": "limited", "allowed_hosts": list(hosts)}}


_CLIENTS = (
    "httpx", "httpcore", "h11", "anyio", "sniffio", "idna", "certifi", "typing_extensions", "requests", "urllib3",
    "charset_normalizer",
)  # fmt: skip


@pytest.fixture(scope="module")
def clients_archive() -> bytes:
    """httpx and requests with what they need, as one file that Python can import from."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in _CLIENTS:
            spec = find_spec(name)
            if spec is None or spec.origin is None:
                continue
            origin = Path(spec.origin)
            files = origin.parent.rglob("*") if origin.name == "__init__.py" else [origin]
            for file in (each for each in files if each.suffix in {".py", ".pem"}):
                base = origin.parent.parent if origin.name == "__init__.py" else origin.parent
                archive.write(file, str(file.relative_to(base)))
    return buffer.getvalue()


@pytest.fixture(scope="module", params=PROVIDERS)
async def hands(request: pytest.FixtureRequest, world: World, clients_archive: bytes) -> AsyncGenerator[Hands]:
    """A session with a vault in an environment that reaches some hosts, on each provider."""
    if request.param == "docker" and (missing := await docker_available()) is not None:
        pytest.skip(missing)
    file_id = await world.client.upload("clients.zip", clients_archive)
    mounts = [{"type": "file", "file_id": file_id, "mount_path": "/workspace/clients.zip"}]
    reached = ("files.test", "git.test", "api.test", "second.test", "plain.test")
    config = limited(*reached, provider=request.param)
    async with world.hands(config=config, vault_ids=[world.vault_id], resources=mounts) as opened:
        yield opened


_APT = (
    "mkdir -p s c e/preferences.d && touch status && echo 'deb [trusted=yes] https://files.test/apt ./' > l && "
    "apt-get -q update -o Dir::State=$PWD/s -o Dir::State::status=$PWD/status -o Dir::Cache=$PWD/c"
    " -o Dir::Etc::sourcelist=$PWD/l -o Dir::Etc::sourceparts=- -o Dir::Etc::trustedparts=- && cat s/lists/*Packages"
)
_TOOLS = {
    "curl": ("curl", "curl -sS https://files.test/checkout/README", "from the repository"),
    "curl over plain http": ("curl", "curl -sS http://plain.test/", "hello"),
    "git": ("git", "git clone -q https://files.test/repo.git repo && cat repo/README", "from the repository"),
    "git with a credential": (
        "git",
        "git clone -q https://x:$GIT_TOKEN@git.test/repo.git private && cat private/README",
        "from the repository",
    ),
    "pip": (
        "pip",
        "python3 -m pip install -q --disable-pip-version-check --index-url https://files.test/simple --target lib"
        " tinything && PYTHONPATH=lib python3 -c 'import tinything; print(tinything.SAYS)'",
        "from the index",
    ),
    "npm": (
        "npm",
        "npm install --silent --no-fund --no-audit --registry https://files.test tinymodule > /dev/null"
        " && node -p 'require(\"tinymodule\")'",
        "from npm",
    ),
    "apt": ("apt-get", _APT, "Description: from apt"),
    "urllib": (
        "python3",
        "python3 -c 'import urllib.request as r; print(r.urlopen(\"https://files.test/checkout/README\").read())'",
        "from the repository",
    ),
    "requests": (
        "python3",
        "PYTHONPATH=clients.zip python3 -c 'import requests; print(requests.get(\"https://files.test/checkout/README\").text)'",
        "from the repository",
    ),
    "httpx": (
        "python3",
        "PYTHONPATH=clients.zip python3 -c 'import httpx; print(httpx.get(\"https://files.test/checkout/README\").text)'",
        "from the repository",
    ),
    "fetch": (
        "node",
        "node -e 'fetch(\"https://files.test/checkout/README\").then(a => a.text()).then(console.log)'",
        "from the repository",
    ),
    "fetch over plain http": (
        "node",
        "node -e 'fetch(\"http://plain.test/\").then(a => a.text()).then(console.log)'",
        "hello",
    ),
}  # fmt: skip


@pytest.mark.parametrize("tool", _TOOLS)
async def test_a_program_reaches_an_allowed_host_without_set_up(hands: Hands, tool: str) -> None:
    program, command, expected = _TOOLS[tool]
    if "missing" in await hands.run(f"command -v {program} > /dev/null || echo missing"):
        pytest.skip(f"there is no {program} in this sandbox")
    told = await hands.run(f"rm -rf t && mkdir t && cd t && ln -s ../clients.zip . && {command}")
    assert expected in told, told
    assert "[network]" not in told


_REFUSED = {
    "curl": "curl -sS https://other.test/",
    "curl over plain http": "curl -sS http://other.test/",
    "git": "git ls-remote https://other.test/x.git",
    "urllib": "python3 -c 'import urllib.request as r; r.urlopen(\"https://other.test\")'",
    "fetch": "node -e 'fetch(\"https://other.test\").catch(e => console.log(e.cause.message))'",
}


@pytest.mark.parametrize("tool", _REFUSED)
async def test_a_denied_host_is_a_sentence_for_the_model(world: World, hands: Hands, tool: str) -> None:
    before = world.hosts["other.test"].connections
    told = await hands.run(_REFUSED[tool])
    if "not found" in told:
        pytest.skip("there is no such program in this sandbox")
    assert told.count("[network] Host other.test is not on this environment's list of allowed hosts.") == 1, told
    assert world.hosts["other.test"].connections == before
    assert (await hands.audit(host="other.test"))[-1]["reason"] == "host_not_allowed"


async def test_a_command_that_was_refused_nothing_is_told_nothing(hands: Hands) -> None:
    await hands.run("curl -s https://other.test")
    assert await hands.run("echo quiet") == "quiet"


async def test_a_secret_is_put_in_at_its_host_and_never_seen_in_the_sandbox(world: World, hands: Hands) -> None:
    api = world.hosts["api.test"]
    told = await hands.run('curl -sS -H "Authorization: Bearer $API_TOKEN" https://api.test/v1; env | grep TOKEN')
    assert api.received[-1].header("authorization") == f"Bearer {SECRET}"
    assert "API_TOKEN=bhstub_" in told
    assert "hello" in told
    seen = await hands.run("env; cat /run/bulkhead/* /proc/*/environ /proc/*/cmdline 2> /dev/null | tr '\\0' '\\n'")
    assert SECRET not in told + seen
    assert OTHER_SECRET not in told + seen
    (allowed,) = [each for each in await hands.audit(host="api.test") if each["ended"]][-1:]
    assert (allowed["credential"], allowed["verdict"], allowed["status"]) == ("API_TOKEN", "allowed", 200)
    assert SECRET not in json.dumps(await hands.audit(host="api.test"))


async def test_a_stub_is_worth_nothing_anywhere_else(world: World, hands: Hands) -> None:
    told = await hands.run('curl -sS -H "Authorization: Bearer $API_TOKEN" https://second.test/')
    assert "[network] The credential API_TOKEN is not bound to host second.test" in told
    await hands.run('curl -sS -H "Authorization: Bearer $API_TOKEN" https://files.test/checkout/README')
    for name in ("second.test", "files.test", "other.test"):
        assert SECRET.encode() not in world.hosts[name].raw


async def test_a_secret_that_its_host_sends_back_is_taken_out(world: World, hands: Hands) -> None:
    api = world.hosts["api.test"]
    before, api.behaviour = api.behaviour, answer(f"you sent {SECRET}")
    try:
        told = await hands.run('curl -sS -H "Authorization: Bearer $API_TOKEN" https://api.test/')
    finally:
        api.behaviour = before
    assert "you sent" in told
    assert SECRET not in told


async def kept_working(hands: Hands, part_restarted: Callable[[], bool]) -> None:
    """See that the very next request works, though what it needs has just died."""
    told = await hands.run("curl -sS --max-time 60 https://files.test/checkout/README")
    assert "from the repository" in told, told
    assert part_restarted()


@pytest.mark.parametrize("killed", [["egress"], ["sandboxes"], ["egress", "sandboxes"]], ids="-".join)
async def test_the_next_request_works_when_a_part_was_killed(world: World, hands: Hands, killed: list[str]) -> None:
    sandbox = await hands.run("touch /tmp/same; echo $API_TOKEN")
    before = world.stack.restarts()
    world.kill(*killed)
    await kept_working(hands, lambda: all(world.stack.restarts()[part] > before[part] for part in killed))
    assert await hands.run("test -e /tmp/same && echo $API_TOKEN") == sandbox
    told = await hands.run('curl -sS -H "Authorization: Bearer $API_TOKEN" https://api.test/')
    assert told == "hello"


async def test_a_request_that_runs_while_the_worker_dies_is_not_cut(world: World, hands: Hands) -> None:
    slow, gone_on = asyncio.Event(), asyncio.Event()

    async def slowly(_: Received, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst")
        await writer.drain()
        slow.set()
        await gone_on.wait()
        writer.write(b" last")

    api = world.hosts["api.test"]
    before, api.behaviour = api.behaviour, slowly
    try:
        asking = asyncio.create_task(hands.run("curl -sS https://api.test/"))
        await slow.wait()
        world.kill("sandboxes")
        await world.stack.ready_again()
        gone_on.set()
        assert await asking == "first last"
    finally:
        api.behaviour = before


async def test_an_archived_credential_is_not_put_in_at_the_next_request(world: World) -> None:
    vault_id = (await world.client.post("/v1/vaults", {"display_name": "short-lived"}))["id"]
    credential = await stored(world.client, vault_id, name="API_TOKEN", secret=SECRET, hosts=["api.test"])
    api = world.hosts["api.test"]
    command = 'curl -sS -H "Authorization: Bearer $(cat t)" https://api.test/'
    async with world.hands(config=limited("api.test"), vault_ids=[vault_id]) as hands:
        assert await hands.run(f'printf %s "$API_TOKEN" > t; {command}') == "hello"
        assert api.received[-1].header("authorization") == f"Bearer {SECRET}"
        await world.client.post(f"/v1/vaults/{vault_id}/credentials/{credential}/archive")
        seen = len(api.raw)
        told = await hands.run(f'{command} > /dev/null; echo "[$API_TOKEN]"')
    assert told.startswith("[]")
    assert SECRET.encode() not in api.raw[seen:]


async def test_a_session_that_is_cut_off_reaches_nothing_until_it_is_restored(world: World) -> None:
    async with world.hands(config=limited("files.test")) as hands:
        path = f"/v1/sessions/{hands.session_id}/egress"
        command = "curl -sS https://files.test/checkout/README"
        assert "from the repository" in await hands.run(command)
        await world.client.post(f"{path}/revoke")
        assert "[network] This session has no network access" in await hands.run(command)
        await world.client.post(f"{path}/restore")
        assert "from the repository" in await hands.run(command)


async def test_an_environment_without_networking_settings_reaches_the_public_and_nothing_private(
    world: World,
) -> None:
    async with world.hands(config={"provider": "namespace"}) as hands:
        assert "from the repository" in await hands.run("curl -sS https://files.test/checkout/README")
        for address in ("169.254.169.254", "10.0.0.1", "[::1]", "localhost"):
            told = await hands.run(f"curl -sS --noproxy '' http://{address}/")
            assert "[network] Host" in told, (address, told)
        direct = await hands.run("curl -sS --noproxy '*' --max-time 5 https://192.0.2.1/")
        assert "[exit code 7]" in direct, direct


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_an_environment_that_may_reach_nothing_has_no_ear(world: World, provider: str) -> None:
    if provider == "docker" and (missing := await docker_available()) is not None:
        pytest.skip(missing)
    async with world.hands(config=limited(provider=provider)) as hands:
        told = await hands.run("env | grep -ci proxy; curl -sS http://127.0.0.1:3128/; ls -A /run/bulkhead | wc -l")
    assert told.split("\n")[:2] == ["0", "0"]
    assert "Failed to connect to 127.0.0.1 port 3128" in told


async def test_a_sandbox_that_has_ended_is_not_listened_for_any_more(world: World) -> None:
    from sandbox.egress import EarsClient

    ears = EarsClient(world.stack.data_dir / "run" / "egress")
    before = set(await ears.attached())
    async with world.hands(config=limited("files.test")) as hands:
        await hands.run("true")
        made = set(await ears.attached()) - before
        assert len(made) == 1
        await world.client.post(f"/v1/sessions/{hands.session_id}/archive")
        async with asyncio.timeout(30):
            while made & set(await ears.attached()):  # noqa: ASYNC110 - another process tells, when it is asked
                await asyncio.sleep(0.1)


def test_a_wrong_setting_is_named(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "controlplane.cli", "up", "--data-dir", str(tmp_path / "d"), "--port", "0"]
    for name, value in (("HOSTS", "git.corp"), ("ALLOW_CIDRS", "10.0.0.1/8"), ("CA_FILE", str(tmp_path / "none"))):
        environment = {**os.environ, f"BULKHEAD_EGRESS_{name}": value}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 1, done.stdout
        assert f"BULKHEAD_EGRESS_{name}" in done.stderr
        assert "Traceback" not in done.stderr


async def endless(_: Received, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    while not writer.is_closing():
        writer.write(b".")
        await writer.drain()
        await asyncio.sleep(0.05)


@asynccontextmanager
async def streaming(world: World, hands: Hands) -> AsyncGenerator[dict[str, Any]]:
    """Have a sandbox read an answer without end, and yield the stream as it is listed."""
    host = world.hosts["files.test"]
    before, host.behaviour = host.behaviour, endless
    try:
        asking = asyncio.create_task(hands.run("curl -sS https://files.test/ | tail -c 1"))
        async with asyncio.timeout(30):
            while not (found := await streams(world, hands)):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        yield found[0]
        await asking
    finally:
        host.behaviour = before


async def streams(world: World, hands: Hands) -> list[dict[str, Any]]:
    return (await world.client.get("/v1/live", session_id=hands.session_id, kinds="stream"))["data"]


async def test_an_open_stream_is_listed_and_ends_with_its_sandbox(world: World) -> None:
    async with world.hands(config=limited("files.test")) as hands, streaming(world, hands) as stream:
        assert stream["what"].endswith(" files.test")
        wanted = {"session_id": hands.session_id, "wait_seconds": 10}
        answered = await world.client.post("/v1/live/stop", wanted)
        assert answered["unproven"] == 0
        assert {each["kind"] for each in answered["data"]} == {"turn", "command", "sandbox", "stream"}


async def test_a_stream_alone_ends_by_revoking_the_egress_of_its_session(world: World) -> None:
    async with world.hands(config=limited("files.test")) as hands:
        async with streaming(world, hands):
            wanted = {"session_id": hands.session_id, "kinds": ["stream"], "wait_seconds": 10}
            answered = await world.client.post("/v1/live/stop", wanted)
            assert (answered["proven"], answered["unproven"]) == (1, 0)
        assert await streams(world, hands) == []
        assert "[network] This session has no network access" in await hands.run("curl -sS https://files.test/")
        await world.client.post(f"/v1/sessions/{hands.session_id}/egress/restore")


async def test_the_streams_of_a_frozen_agent_are_cut_and_it_reaches_nothing(world: World) -> None:
    async with world.hands(config=limited("files.test")) as hands:
        agent = (await world.client.get(f"/v1/sessions/{hands.session_id}"))["agent"]["id"]
        async with streaming(world, hands):
            await world.client.post(f"/v1/agents/{agent}/freeze")
        assert await streams(world, hands) == []
        failure = (await world.client.get(f"/v1/sessions/{hands.session_id}"))["failure"]
        assert failure["cause"] == "agent_frozen"
        await world.client.post(f"/v1/agents/{agent}/thaw")
        hands.turns += 1
        await hands.watcher.until_idle(times=hands.turns)
        assert "from the repository" in await hands.run("curl -sS https://files.test/checkout/README")


async def test_a_sandbox_that_waited_has_its_way_out_as_a_new_one_has(world: World) -> None:
    wanted = {"tools": [{"name": "sandbox_provision", "input": {"task_description": "whatever waits"}}]}
    async with asyncio.timeout(60):
        while True:
            async with world.hands(config=limited("api.test"), vault_ids=[world.vault_id]) as hands:
                await world.client.say(hands.session_id, script(wanted, {"text": "done"}))
                await hands.watcher.until_idle(times=1)
                hands.turns += 1
                made = json.loads(hands.watcher.of("agent.tool_result")[0]["content"][0]["text"])
                if made["source"] == "warm":
                    said = await hands.run('head -n 1 "$APT_CONFIG"; curl -sS https://api.test/')
                    break
            await asyncio.sleep(1)
    assert "Acquire::http::Proxy" in said
    assert "hello" in said
