"""The egress proxy beside a direct connection and beside mitmproxy: `python -m tests.bench.egress`.

Client, proxy and upstream are three processes that share the machine; `measure` returns the figures for `make bench`.
"""

import argparse
import asyncio
import contextlib
import json
import os
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from sandbox.egress import AddressRules, AuditEntry, Binding, EgressSettings, GrantedCredential, Proxy, SandboxPolicy
from sandbox.egress.certificates import Authority
from tests.support.egress import MemoryPolicies, RootAuthority, StaticResolver

_ROOT = Path(__file__).parents[2]
_MITMPROXY = _ROOT / ".venv-mitmproxy"
_MB = 1024 * 1024
_BIG_BYTES = 512 * _MB
_ROUNDS = 3
_WARM_UP = 50
_BODY = b"x" * 100
_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%b" % (len(_BODY), _BODY)
_STUB = "bhstub_0123456789abcdefghijklmn"
_SEED = b"b" * 32
_MITMPROXY_ADDON = f"""
class Swap:
    def request(self, flow):
        value = flow.request.headers.get("authorization", "")
        flow.request.headers["authorization"] = value.replace("{_STUB}", "the-secret")

addons = [Swap()]
"""


@dataclass(frozen=True)
class Measured:
    """One figure; the same fields as the report's."""

    name: str
    unit: str
    goal: str
    median: float
    p95: float
    samples: int
    floor: str = ""


class CountingAudit:
    """An `AuditSink` that only counts, so that the figures are the proxy's own."""

    def __init__(self) -> None:
        self.count = 0

    async def record(self, entry: AuditEntry) -> None:
        """Count an entry."""
        self.count += 1


class Upstream(asyncio.Protocol):
    """Answers every request with 100 bytes, and ``/big`` with half a gigabyte."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._left = 0

    def data_received(self, data: bytes) -> None:
        """Answer."""
        if data.startswith(b"GET /big"):
            self._left = _BIG_BYTES
            self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % _BIG_BYTES)
            self.resume_writing()
        elif data.endswith(b"\r\n\r\n"):
            self._transport.write(_ANSWER)

    def pause_writing(self) -> None:
        """Wait."""
        self._paused = True

    def resume_writing(self) -> None:
        """Go on."""
        self._paused = False
        while self._left and not self._paused:
            self._left -= _MB
            self._transport.write(_ZEROS)


_ZEROS = bytes(_MB)


class Peer:
    """A blocking client connection with TLS, direct or through a proxy."""

    def __init__(
        self, port: int, context: ssl.SSLContext, *, host: str, through: int | None = None, connect: str = ""
    ):
        raw = socket.create_connection(("127.0.0.1", through or port))
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if through:
            raw.sendall(f"CONNECT {connect} HTTP/1.1\r\nHost: {connect}\r\n\r\n".encode())
            answer = raw.recv(4096)
            if b" 200 " not in answer:
                raise ConnectionError(answer.decode())
        self.tls = context.wrap_socket(raw, server_hostname=host)
        self._request = f"GET / HTTP/1.1\r\nHost: {connect.removesuffix(':443') or host}\r\n".encode()
        self._request += f"Authorization: Bearer {_STUB}\r\n\r\n".encode()

    def send(self) -> None:
        """Send a request."""
        self.tls.sendall(self._request)

    def receive(self) -> None:
        """Read its answer."""
        data = b""
        while not data.endswith(_BODY):
            more = self.tls.recv(65536)
            if not more:
                raise ConnectionError(f"cut short: {data[:200]!r}")
            data += more

    def big(self) -> float:
        """Read a large body; returns MB/s."""
        self.tls.sendall(self._request.replace(b"GET /", b"GET /big", 1))
        buffer, left = bytearray(_MB), _BIG_BYTES
        began = time.perf_counter()
        while left > 0:
            left -= self.tls.recv_into(buffer)
        return _BIG_BYTES / _MB / (time.perf_counter() - began)


Open = Callable[[], Peer]


def latencies(open_peer: Open, times: int) -> list[float]:
    """Return the milliseconds of requests on one connection, one after another."""
    peer, found = open_peer(), []
    for _ in range(times + _WARM_UP):
        began = time.perf_counter()
        peer.send()
        peer.receive()
        found.append((time.perf_counter() - began) * 1000)
    return found[_WARM_UP:]


def rate(open_peer: Open, seconds: float) -> float:
    """Return requests per second with 16 always under way."""
    peers, count = [open_peer() for _ in range(16)], 0
    for each in peers:
        each.send()
    began = time.perf_counter()
    while time.perf_counter() - began < seconds:
        for each in peers:
            each.receive()
            each.send()
            count += 1
    return count / (time.perf_counter() - began)


def mitmdump() -> Path | None:
    """Return mitmproxy's program, installed into an environment of its own; None if it cannot be had."""
    python, wanted = _MITMPROXY / "bin/python", _ROOT / "requirements/mitmproxy.txt"
    try:
        if not python.exists():
            subprocess.run([sys.executable, "-m", "venv", str(_MITMPROXY)], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--require-hashes"]
        subprocess.run([*pip, "-r", str(wanted)], check=True, stdout=subprocess.DEVNULL)
    except subprocess.CalledProcessError:
        print("mitmproxy cannot be installed here; going on without it", file=sys.stderr)
        return None
    return _MITMPROXY / "bin/mitmdump"


def measure(*, times: int = 2000, seconds: float = 2.0, mitmproxy: Path | None = None) -> list[Measured]:
    """Measure everything; ``mitmproxy`` is its ``mitmdump``."""
    with tempfile.TemporaryDirectory() as name, _upstream(Path(name)) as (port, root):
        folder = Path(name)
        with _proxy(folder, port, root) as (process, ear):
            idle = _rss(process)
            peers = _Peers(port, ear, root, folder / "session.pem")
            found = [_added(peers, times), _cpu(process, peers, times), _opaque(peers)]
            with _mitmproxy(mitmproxy, folder, port, root) as beside:
                found += _rates(peers, beside, seconds)
            many = [peers.swapped() for _ in range(500)]
            for each in many:
                each.send()
                each.receive()
            found.append(_one("egress: RSS idle", "MB", [idle]))
            found.append(_one("egress: RSS with 500 connections", "MB", [_rss(process)]))
        return found


class _Peers:
    def __init__(self, port: int, ear: int, root: Path, session_root: Path):
        self._port, self._ear = port, ear
        self._trusted = ssl.create_default_context(cafile=str(session_root))
        self._at_upstream = ssl.create_default_context(cafile=str(root))

    def direct(self) -> Peer:
        """Connect to the upstream itself."""
        return Peer(self._port, self._at_upstream, host="files.test")

    def swapped(self) -> Peer:
        """Connect through the proxy to a host with a credential."""
        return Peer(self._port, self._trusted, host="api.test", through=self._ear, connect="api.test:443")

    def opaque(self) -> Peer:
        """Connect through the proxy to a host without one."""
        return Peer(self._port, self._at_upstream, host="files.test", through=self._ear, connect="files.test:443")


def _added(peers: _Peers, times: int) -> Measured:
    straight, through = latencies(peers.direct, times), latencies(peers.swapped, times)
    added = [_at(through, part) - _at(straight, part) for part in (0.5, 0.95, 0.99)]
    floor = f"direct p50 {_at(straight, 0.5):.2f} p99 {_at(straight, 0.99):.2f} ms; at p99 it adds {added[2]:.2f} ms"
    return Measured("egress: swapped request adds", "ms", "≤ 0.4", added[0], added[1], times, floor)


def _cpu(process: psutil.Process, peers: _Peers, times: int) -> Measured:
    """What the proxy computes for a request: unlike its latency, little changed by what else the machine does."""
    found: list[float] = []
    for _ in range(_ROUNDS):
        before = sum(process.cpu_times()[:2])
        latencies(peers.swapped, times)
        found.append((sum(process.cpu_times()[:2]) - before) * 1000 / (times + _WARM_UP))
    return _one("egress: CPU per swapped request", "ms", found)


def _opaque(peers: _Peers) -> Measured:
    pairs = [(peers.direct().big(), peers.opaque().big()) for _ in range(_ROUNDS)]
    floor = f"direct {statistics.median(plain for plain, _ in pairs):.0f} MB/s"
    return _one(
        "egress: opaque throughput of direct", "ratio", [through / plain for plain, through in pairs], "≥ 0.8", floor
    )


def _rates(peers: _Peers, beside: Open | None, seconds: float) -> list[Measured]:
    """Take turns, so that whatever else the machine does meets all of them."""
    own: list[float] = []
    others: list[float] = []
    for _ in range(_ROUNDS):
        own.append(rate(peers.swapped, seconds))
        others += [rate(beside, seconds)] if beside else []
    floor = f"direct {rate(peers.direct, seconds):.0f}/s"
    found = [_one("egress: swapped rate, c=16", "requests/s", own, "", floor)]
    if others:
        ratios = [ours / theirs for ours, theirs in zip(own, others, strict=True)]
        floor = f"mitmproxy {statistics.median(others):.0f}/s"
        found.append(_one("egress: rate of mitmproxy's, c=16", "×", ratios, "≥ 6", floor))
    return found


@contextlib.contextmanager
def _mitmproxy(mitmdump: Path | None, folder: Path, port: int, root: Path) -> Generator[Open | None]:
    if mitmdump is None:
        yield None
        return
    addon, ear = folder / "addon.py", _free_port()
    addon.write_text(_MITMPROXY_ADDON)
    options = [f"ssl_verify_upstream_trusted_ca={root}", f"confdir={folder / 'mitmproxy'}", "flow_detail=0"]
    command = [str(mitmdump), "-q", "-s", str(addon), "--listen-host", "127.0.0.1", "-p", str(ear)]
    process = subprocess.Popen([*command, *(part for each in options for part in ("--set", each))])
    try:
        _wait_for(ear)
        context = ssl.create_default_context(cafile=str(folder / "mitmproxy" / "mitmproxy-ca-cert.pem"))
        yield lambda: Peer(port, context, host="localhost", through=ear, connect=f"localhost:{port}")
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def _upstream(folder: Path) -> Generator[tuple[int, Path]]:
    port = _free_port()
    with _running("upstream", {"folder": str(folder), "port": port}, port):
        yield port, folder / "root.pem"


@contextlib.contextmanager
def _proxy(folder: Path, upstream: int, root: Path) -> Generator[tuple[psutil.Process, int]]:
    (folder / "session.pem").write_bytes(Authority("sesn_bench", _SEED).certificate_pem)
    ear = _free_port()
    with _running("proxy", {"upstream": upstream, "root": str(root), "port": ear}, ear) as process:
        yield process, ear


@contextlib.contextmanager
def _running(part: str, told: dict[str, Any], port: int) -> Generator[psutil.Process]:
    command = [sys.executable, "-m", "tests.bench.egress", "--part", part, json.dumps(told)]
    # Its log of connections that ended would stand between the figures.
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        _wait_for(port)
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


async def _run_upstream(told: dict[str, Any]) -> None:
    context = RootAuthority(Path(told["folder"])).server_context("api.test", "files.test", "localhost")
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", told["port"], ssl=context)
    await server.serve_forever()


async def _run_proxy(told: dict[str, Any]) -> None:
    binding = Binding(hosts=["api.test"])
    token = GrantedCredential(credential_id="vcrd_bench", name="TOKEN", stub=_STUB, binding=binding)
    policies = MemoryPolicies()
    policies.secrets["vcrd_bench"] = "the-secret-of-the-benchmark"
    policies.seeds["sesn_bench"] = _SEED
    policies.policies["sbx_bench"] = SandboxPolicy(
        sandbox_id="sbx_bench",
        session_id="sesn_bench",
        workspace_id="wrkspc_bench",
        networking="limited",
        allowed_hosts=["api.test", "files.test"],
        credentials=[token],
    )
    pins = dict.fromkeys(("api.test", "files.test"), ("127.0.0.1", int(told["upstream"])))
    settings = EgressSettings(Path(told["root"]), AddressRules(hosts=pins))
    audit, resolver = CountingAudit(), StaticResolver()
    async with Proxy(policies=policies, audit=audit, resolver=resolver, settings=settings) as proxy:
        await proxy.attach("sbx_bench", socket.create_server(("127.0.0.1", told["port"]), backlog=1024))
        await asyncio.Event().wait()


def _one(name: str, unit: str, values: list[float], goal: str = "", floor: str = "") -> Measured:
    return Measured(name, unit, goal, statistics.median(values), _at(values, 0.95), len(values), floor)


def _at(values: list[float], part: float) -> float:
    return sorted(values)[min(len(values) - 1, round(part * (len(values) - 1)))]


def _rss(process: psutil.Process) -> float:
    return process.memory_info().rss / _MB


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


def _wait_for(port: int) -> None:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port)).close()
            return
        time.sleep(0.05)
    raise TimeoutError(f"nobody listens on port {port}")


def main() -> None:
    """Measure and print, or run one of the parts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        run = {"upstream": _run_upstream, "proxy": _run_proxy}[options.part[0]]
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(run(json.loads(options.part[1])))
        return
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    for each in measure(mitmproxy=mitmdump()):
        print(json.dumps(asdict(each), ensure_ascii=False))


if __name__ == "__main__":
    main()
