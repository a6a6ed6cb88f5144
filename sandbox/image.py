"""The default image of Docker sandboxes, made without a registry: from Debian's packages, else from this host."""

import asyncio
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

from sandbox import docker, host, runtime
from sandbox.contract import SandboxError

PACKAGES = (
    "bash", "bzip2", "ca-certificates", "curl", "diffutils", "file", "git", "jq", "less", "make", "patch", "procps",
    "python3", "python3-pip", "python3-venv", "ripgrep", "sqlite3", "tree", "unzip", "xz-utils", "zip",
)  # fmt: skip
_CHANGES = (
    "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "ENV LANG=C.UTF-8",
    "USER 1000:1000",
    "WORKDIR /workspace",
)
_NEEDLESS = ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/locale")

Progress = Callable[[str], None]


async def build_default_image(
    progress: Progress, *, name: str = docker.DEFAULT_IMAGE, mirror: str | None = None
) -> None:
    """Make the image and give it to the engine; ``progress`` gets a sentence per step.

    Raises `SandboxError` if there is no engine, or the packages cannot be fetched.
    """
    await asyncio.to_thread(_build, progress, name, mirror)


def _build(progress: Progress, name: str, mirror: str | None) -> None:
    with tempfile.TemporaryDirectory(prefix="bulkhead-image-") as temporary:
        root = Path(temporary) / "root"
        root.mkdir()
        if os.geteuid() == 0 and shutil.which("debootstrap"):
            _debootstrap(root, progress, mirror)
            paths = ["."]
        else:
            progress("debootstrap needs root and its package: the image gets this host's own programs instead")
            paths = []
        _furnish(root)
        progress(f"handing {name} to the engine")
        _import(root, name, system=not paths)
    progress(f"{name} is ready")


def _debootstrap(root: Path, progress: Progress, mirror: str | None) -> None:
    suite, found = _host_release()
    source = mirror or found
    progress(f"fetching {suite} from {source or 'the default mirror'}")
    command = ["debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", suite, str(root)]
    with subprocess.Popen(
        [*command, *([source] if source else [])], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        last = ""
        for line in _output(process):
            last = line.removeprefix("I: ").strip()
            progress(last)
    if process.returncode != 0:
        raise SandboxError(f"debootstrap failed: {last}; name another mirror and try again", code="provision_failed")
    for folder in _NEEDLESS:
        shutil.rmtree(root / folder, ignore_errors=True)


def _output(process: subprocess.Popen[str]) -> IO[str]:
    assert process.stdout is not None  # noqa: S101 -- it was asked for
    return process.stdout


def _host_release() -> tuple[str, str | None]:
    release = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    suite = release.get("VERSION_CODENAME", "stable").strip('"')
    sources = [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]
    for path in sources:
        text = path.read_text() if path.is_file() else ""
        for match in re.finditer(r"^(?:deb(?: \[[^]]*\])? |URIs: *)(\S+?)/?(?: +(\S+).*)?$", text, re.MULTILINE):
            if match[2] in {None, suite}:
                return suite, match[1]
    return suite, None


def _furnish(root: Path) -> None:
    for folder in ("etc", "home/agent", "proc", "sys", "dev", "tmp", "workspace"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name in ("passwd", "group"):
        path = root / "etc" / name
        known = path.read_text() if path.exists() else ""
        added = [line for line in runtime.ETC[name].splitlines() if not known or not line.startswith("root:")]
        path.write_text(known + "".join(f"{line}\n" for line in added))


def _import(root: Path, name: str, *, system: bool) -> None:
    command = ["tar", "--create", "--numeric-owner", "--owner=0", "--group=0", f"--directory={root}", "."]
    if system:
        etc = [f"etc/{entry}" for entry in host.SHOWN_OF_ETC if Path("/etc", entry).exists()]
        tops = [path.name for path in host.TOP_FOLDERS if path.exists()]
        command += ["--directory=/", "--exclude=usr/share/doc", "--exclude=usr/share/man", "usr", *tops, *etc]
    client = docker.connect()
    try:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            answer = client.import_image_from_stream(process.stdout, repository=name, changes=list(_CHANGES))
        if '"error"' in str(answer):
            raise SandboxError(f"the engine refused the image: {answer}", code="provision_failed")
    finally:
        client.close()
