"""A small Python that runs in any image: this interpreter, its libraries with their loader, and the supervisor.

Every sandbox gets it read-only at `MOUNT`. It is started through its own loader, so an image needs nothing for it,
not even a C library.
"""

import compileall
import hashlib
import json
import os
import py_compile
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sandbox.contract import SandboxError

MOUNT = "/.bulkhead"
ETC = {
    "passwd": "root:x:0:0:root:/nonexistent:/usr/sbin/nologin\nagent:x:1000:1000:agent:/home/agent:/bin/bash\n",
    "group": "root:x:0:\nagent:x:1000:\n",
    "hosts": "127.0.0.1 localhost sandbox\n::1 localhost\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
    "profile": 'for file in /etc/profile.d/*.sh; do\n  if [ -r "$file" ]; then . "$file"; fi\ndone\nunset file\n',
}
"""Files of /etc for a sandbox that has no image: nobody of the host is in them. Debian's own profile asks another
program who its user is, for each command, which takes as long as the shell itself."""
ANY_LOADER = "loader"
"""A second name of the loader in an image, the same on every architecture: a worker need not know a pod's node."""
_START = "from sandbox.supervisor.main import main; main()"
_LIST = f"import sys, json; sys.path.append(sys.argv[1]); {_START.partition(';')[0]}; import encodings.ascii; " + (
    "[__import__(name) for name in sys.argv[2:]]; "
    "print(json.dumps([m.__file__ for m in sys.modules.values() if getattr(m, '__file__', None)]))"
)
_PROGRAM_INTERPRETER = 3
_BUILD_TIMEOUT_SECONDS = 60


@dataclass(frozen=True)
class Runtime:
    """A built runtime; its folder's name tells its content."""

    path: Path
    loader: str

    def python(self, root: str = MOUNT) -> list[str]:
        """Return the arguments that start its interpreter when the runtime is at ``root``."""
        return [*self.program("python3", root), "-I", "-S"]

    def program(self, name: str, root: str) -> list[str]:
        """Return the arguments that start one of its programs."""
        return [f"{root}/lib/{self.loader}", "--library-path", f"{root}/lib", f"{root}/bin/{name}"]

    def supervisor(self, *arguments: str) -> list[str]:
        """Return the arguments that start the supervisor inside a sandbox."""
        return [*self.python(), "-c", _START, *arguments]


def build(
    cache: Path,
    *,
    programs: tuple[Path, ...] = (),
    modules: tuple[str, ...] = (),
    etc: Mapping[str, Path] | None = None,
) -> Runtime:
    """Return the runtime in the cache folder, made if it is not there.

    Further programs are made relocatable too, ``modules`` of the standard library are there beside those that the
    supervisor needs, and ``etc`` is copied beside `ETC` for a sandbox without an image.
    """
    python = Path(sys.executable).resolve()
    files = {f"bin/{path.name}": path for path in programs} | {"bin/python3": python} | _modules(python, modules)
    loader = _interpreter_of(python)
    binaries = [path for name, path in files.items() if not name.endswith(".py")]
    files |= {f"lib/{name}": path for path in binaries for name, path in _libraries(loader, path).items()}
    files[f"lib/{loader.name}"] = loader
    files |= {f"etc/{name}": path for name, path in (etc or {}).items() if name not in ETC}
    digest = hashlib.sha256()
    for name, path in sorted(files.items()):
        content = os.fsencode(path.readlink()) if _is_kept_link(name, path) else path.read_bytes()
        digest.update(name.encode() + b"\0" + hashlib.sha256(content).digest())
    digest.update(repr(ETC).encode())
    target = cache.absolute() / f"runtime-{digest.hexdigest()[:16]}"
    runtime = Runtime(path=target, loader=loader.name)
    if not target.exists():
        _assemble(files, target, runtime, modules)
    return runtime


def install(into: Path) -> Runtime:
    """Put a runtime into a folder of an image that is being made, to be there at `MOUNT`; raises OSError if it is."""
    with tempfile.TemporaryDirectory() as cache:
        built = build(Path(cache))
        shutil.copytree(built.path, into, symlinks=True)
        (into / "lib" / ANY_LOADER).symlink_to(built.loader)
    return Runtime(path=into, loader=ANY_LOADER)


def _is_kept_link(name: str, path: Path) -> bool:
    return name.startswith("etc/") and path.is_symlink()


def _modules(python: Path, more: tuple[str, ...]) -> dict[str, Path]:
    here = Path(__file__).parent.parent
    command = [python, "-I", "-S", "-c", _LIST, str(here), *more]
    listing = subprocess.run(command, capture_output=True, timeout=_BUILD_TIMEOUT_SECONDS, check=True)
    folder = f"lib/python{sys.version_info[0]}.{sys.version_info[1]}"
    found: dict[str, Path] = {}
    for text in json.loads(listing.stdout):
        path = Path(text)
        if path.is_relative_to(here / "sandbox"):
            found[f"{folder}/{path.relative_to(here)}"] = path
        elif "lib-dynload" in path.parts:
            found[f"{folder}/lib-dynload/{path.name}"] = path
        else:
            found[f"{folder}/{path.relative_to(Path(os.__file__).parent)}"] = path
    found[f"{folder}/os.py"] = Path(os.__file__)
    return found


def _interpreter_of(binary: Path) -> Path:
    data = binary.read_bytes()
    table, size, count = struct.unpack_from("<Q", data, 32)[0], *struct.unpack_from("<HH", data, 54)
    for number in range(count):
        kind, _, offset, _, _, length = struct.unpack_from("<IIQQQQ", data, table + number * size)
        if kind == _PROGRAM_INTERPRETER:
            return Path(data[offset : offset + length - 1].decode())
    raise SandboxError(f"{binary}: not a dynamically linked program", code="provision_failed")


def _libraries(loader: Path, binary: Path) -> dict[str, Path]:
    listing = subprocess.run(
        [loader, "--list", binary], capture_output=True, text=True, timeout=_BUILD_TIMEOUT_SECONDS, check=True
    )
    pairs = (line.split(" => ") for line in listing.stdout.splitlines() if " => " in line)
    return {name.strip(): Path(rest.split(" (")[0].strip()) for name, rest in pairs}


def _assemble(files: dict[str, Path], target: Path, runtime: Runtime, modules: tuple[str, ...]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=".runtime-", dir=target.parent))
    try:
        for name, path in files.items():
            place = staging / name
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place, follow_symlinks=not _is_kept_link(name, path))
            if not place.is_symlink():
                place.chmod(0o755 if name.startswith(("bin/", "lib/" + runtime.loader)) else 0o644)
        (staging / "etc").mkdir(exist_ok=True)
        for name, text in ETC.items():
            (staging / "etc" / name).write_text(text)
        (staging / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "lib-dynload").mkdir(exist_ok=True)
        compileall.compile_dir(
            staging / "lib",
            quiet=2,
            invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
            stripdir=staging,
        )
        staging.chmod(0o755)
        for folder in (path for path in staging.rglob("*") if path.is_dir() and not path.is_symlink()):
            folder.chmod(0o755)
        subprocess.run(
            [*runtime.python(str(staging)), "-c", "; import ".join([_START.partition(";")[0], *modules])],
            check=True,
            capture_output=True,
            timeout=_BUILD_TIMEOUT_SECONDS,
        )
        staging.rename(target)
    except OSError:
        if not target.exists():
            raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)
