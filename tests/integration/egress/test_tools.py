"""Tools that people use, with nothing but the proxy variables and the session's root in their environment."""

import asyncio
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from sandbox.egress import GrantedCredential
from tests.support.egress import CANARY, Received, Stage, TestHost, answer

_SECRET = CANARY.encode().decode("latin-1")
Run = Callable[..., Awaitable[str]]


@pytest.fixture
async def token(stage: Stage) -> GrantedCredential:
    """A credential for api.test; open.test is allowed and has none."""
    granted = stage.credential("API_TOKEN", ["api.test"])
    await stage.sandbox(allowed_hosts=["api.test", "open.test"], credentials=[granted])
    return granted


@pytest.fixture
async def run(stage: Stage, token: GrantedCredential, tmp_path: Path) -> Run:
    """Runs a command as in a sandbox; returns what it printed."""
    ear, roots = f"http://127.0.0.1:{stage.ports['sbx_a']}", str(await stage.session_ca())
    proxies = dict.fromkeys(("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY"), ear)
    names = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO", "PIP_CERT",
             "NODE_EXTRA_CA_CERTS", "NPM_CONFIG_CAFILE")  # fmt: skip
    environment = {**dict.fromkeys(names, roots), **proxies, "PATH": os.environ["PATH"], "HOME": str(tmp_path),
                   "API_TOKEN": token.stub, "GIT_TERMINAL_PROMPT": "0", "NODE_USE_ENV_PROXY": "1"}  # fmt: skip

    async def ran(*command: str, fails: bool = False) -> str:
        if not shutil.which(command[0]):
            pytest.skip(f"{command[0]} is not on this machine")
        done = await asyncio.to_thread(
            subprocess.run,
            command,
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert (done.returncode != 0) == fails, done.stdout + done.stderr
        return done.stdout + done.stderr

    return ran


def _files(host: TestHost, files: dict[str, bytes]) -> None:
    async def serve(request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        content = files.get(request.target.partition("?")[0])
        kind = "text/html" if request.target.endswith("/") else "application/octet-stream"
        found = answer(content or b"", headers=[("Content-Type", kind)])
        behave = found if content is not None else answer(status="404 Not Found")
        await behave(request, reader, writer)

    host.behaviour = serve


async def test_curl(stage: Stage, run: Run) -> None:
    host = await stage.host("api.test", behaviour=answer("hello"))
    got = await run(
        "sh", "-c", 'curl -sS -H "Authorization: Bearer $API_TOKEN" https://api.test/x https://api.test/y'
    )
    assert got == "hellohello"
    assert [each.header("authorization") for each in host.received] == [f"Bearer {_SECRET}"] * 2
    await stage.host("open.test", behaviour=answer("open"))
    assert await run("curl", "-sS", "https://open.test/") == "open"


@pytest.mark.timeout(60)
async def test_curl_uploads_with_expectation(stage: Stage, run: Run, tmp_path: Path) -> None:
    host = await stage.host("api.test", behaviour=answer("stored"))
    (tmp_path / "big").write_bytes(b"0123456789abcdef" * 200_000)
    command = 'curl -sS --expect100-timeout 200 -H "Expect: 100-continue" -H "X-Api-Key: $API_TOKEN" -T big https://api.test/up'
    assert await run("sh", "-c", command) == "stored"
    assert len(host.received[0].body) == 3_200_000
    assert host.received[0].header("x-api-key") == _SECRET


async def test_a_refusal_is_told_by_each_tool(stage: Stage, run: Run) -> None:
    sentence = "Host evil.test is not on this environment's list of allowed hosts"
    assert "403" in await run("curl", "-sS", "https://evil.test/", fails=True)
    assert sentence in await run("curl", "-sS", "http://evil.test/")
    script = "import requests; requests.get('https://evil.test/')"
    assert sentence in await run(sys.executable, "-c", script, fails=True)
    script = "import httpx; httpx.get('https://evil.test/')"
    assert sentence in await run(sys.executable, "-c", script, fails=True)
    assert {entry.reason for entry in stage.audit.ended} == {"host_not_allowed"}


@pytest.mark.parametrize("library", ["requests", "httpx"])
async def test_python(stage: Stage, run: Run, library: str) -> None:
    host = await stage.host("api.test", behaviour=answer('{"a": 1}'))
    call = "web.post('https://api.test/x', json=[1], auth=('me', os.environ['API_TOKEN']))"
    script = f"import os, {library} as web; r = {call}; "
    assert (await run(sys.executable, "-c", script + "print(r.json())")).strip() == "{'a': 1}"
    assert (host.received[0].method, host.received[0].body.replace(b" ", b"")) == ("POST", b"[1]")


async def test_git(stage: Stage, run: Run, tmp_path: Path) -> None:
    made = tmp_path / "made"
    script = (
        "git init -q made && cd made && git config user.email a@b.c && git config user.name n && echo content > file"
        " && git add . && git commit -qm first && git update-server-info"
    )
    await run("sh", "-c", script)
    files = {f"/repo.git/{path.relative_to(made / '.git')}": path.read_bytes()
             for path in (made / ".git").rglob("*") if path.is_file()}  # fmt: skip
    host = await stage.host("api.test")
    _files(host, files)
    await run("sh", "-c", "git clone -q https://me:$API_TOKEN@api.test/repo.git cloned")
    assert (tmp_path / "cloned" / "file").read_text() == "content\n"
    assert CANARY not in "".join(
        each.read_text(errors="replace") for each in (tmp_path / "cloned" / ".git").glob("*") if each.is_file()
    )


async def test_pip(stage: Stage, run: Run, tmp_path: Path) -> None:
    wheel = io.BytesIO()
    with zipfile.ZipFile(wheel, "w") as archive:
        info = "bulkhead_sample-1.0.dist-info"
        archive.writestr("bulkhead_sample.py", "x = 1\n")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: bulkhead-sample\nVersion: 1.0\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    name = "bulkhead_sample-1.0-py3-none-any.whl"
    host = await stage.host("open.test")
    page = f'<a href="/files/{name}">{name}</a>'.encode()
    _files(host, {"/simple/bulkhead-sample/": page, f"/files/{name}": wheel.getvalue()})
    options = ["--no-cache-dir", "--no-deps", "--target", str(tmp_path / "into"), "--disable-pip-version-check"]
    install = [sys.executable, "-m", "pip", "install", "-q", *options, "--index-url", "https://open.test/simple/"]
    await run(*install, "bulkhead-sample")
    assert (tmp_path / "into" / "bulkhead_sample.py").read_text() == "x = 1\n"


async def test_npm(stage: Stage, run: Run, tmp_path: Path) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        content = json.dumps({"name": "sample", "version": "1.0.0"}).encode()
        entry = tarfile.TarInfo("package/package.json")
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    tarball = packed.getvalue()
    shasum = hashlib.sha1(tarball, usedforsecurity=False).hexdigest()
    distribution = {"tarball": "https://api.test/sample/-/sample-1.0.0.tgz", "shasum": shasum}
    version = {"name": "sample", "version": "1.0.0", "dist": distribution}
    document = {"name": "sample", "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": version}}
    host = await stage.host("api.test")
    _files(host, {"/sample": json.dumps(document).encode(), "/sample/-/sample-1.0.0.tgz": tarball})
    (tmp_path / ".npmrc").write_text("//api.test/:_authToken=${API_TOKEN}\nregistry=https://api.test/\n")
    await run(
        "npm", "install", "--no-audit", "--no-fund", "--no-update-notifier", "--prefix", str(tmp_path), "sample"
    )
    assert (tmp_path / "node_modules" / "sample" / "package.json").is_file()
    assert {each.header("authorization") for each in host.received} == {f"Bearer {_SECRET}"}


_NODE_GET = """
const [proxy, http, tls] = [new URL(process.env.HTTPS_PROXY), require('http'), require('tls')]
http.request({host: proxy.hostname, port: proxy.port, method: 'CONNECT', path: 'api.test:443',
              headers: {host: 'api.test:443'}})
  .on('connect', (answer, socket) => {
    const secure = tls.connect({socket, servername: 'api.test'}, () => secure.write(
      'GET / HTTP/1.1\\r\\nHost: api.test\\r\\nConnection: close\\r\\nAuthorization: Bearer ' +
      process.env.API_TOKEN + '\\r\\n\\r\\n'))
    secure.on('data', data => process.stdout.write(data))
  }).end()
"""
_NODE_FETCH = """
fetch('https://api.test/', {headers: {authorization: 'Bearer ' + process.env.API_TOKEN}})
  .then(answer => answer.text()).then(console.log)
"""


async def test_node(stage: Stage, run: Run) -> None:
    host = await stage.host("api.test", behaviour=answer("hello"))
    # Since version 24 its own fetch minds proxy variables; before that only its sockets can be shown to get through.
    minds = (await run("node", "-p", "Number(process.versions.node.split('.')[0]) >= 24")).strip() == "true"
    assert (await run("node", "-e", _NODE_FETCH if minds else _NODE_GET)).strip().endswith("hello")
    assert host.received[0].header("authorization") == f"Bearer {_SECRET}"


async def test_apt(stage: Stage, run: Run, tmp_path: Path) -> None:
    host = await stage.host("open.test", tls=False)
    packages = b"Package: sample\nVersion: 1.0\nArchitecture: all\nFilename: sample.deb\nSize: 1\n\n"
    lines = [
        f" {hashlib.new(kind, packages).hexdigest()} {len(packages)} main/binary-all/Packages" for kind in ("sha256",)
    ]
    release = f"Suite: stable\nCodename: stable\nArchitectures: all\nComponents: main\nSHA256:\n{lines[0]}\n".encode()
    _files(host, {"/dists/stable/Release": release, "/dists/stable/main/binary-all/Packages": packages})
    for name in ("lists/partial", "cache/archives/partial"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "sources.list").write_text("deb [trusted=yes arch=all] http://open.test stable main\n")
    (tmp_path / "status").write_text("")
    options = {"Dir::Etc::sourcelist": tmp_path / "sources.list", "Dir::Etc::sourceparts": "-",
               "Dir::State::lists": tmp_path / "lists", "Dir::Cache": tmp_path / "cache",
               "Dir::State::status": tmp_path / "status", "APT::Sandbox::User": "root"}  # fmt: skip
    flags = [part for name, value in options.items() for part in ("-o", f"{name}={value}")]
    await run("apt-get", *flags, "update")
    assert "sample" in await run("apt-cache", *flags, "pkgnames")
