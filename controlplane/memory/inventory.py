"""What lies under /mnt/memory in a sandbox: which files, with which hashes, and what could not be read."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import structlog

from controlplane.store.memory_attached import MOUNT_ROOT
from sandbox.contract import ExecRequest, SandboxError, SandboxLostError, SandboxProvider

_log = structlog.get_logger(__name__)

SECONDS = 60
_MOST_OUTPUT_BYTES = 4 << 20
_MOST_SAID = 300
# Names first, hashes after: what has a name and no hash is there and could not be read, or is no file. No path has a
# line end; those that do are counted.
_LIST = f"""cd {MOUNT_ROOT} && mkdir -p -- {{}} || exit
odd='*
*'
find . ! -type d ! -path "$odd" -print; code=$?
find . ! -type d -path "$odd" -exec sh -c 'echo "odd $#"' sh {{{{}}}} + 2> /dev/null
find . -type f ! -path "$odd" -exec sha256sum -- {{{{}}}} + 2> /dev/null
exit $code"""
_HASHED = re.compile(r"(\\?)([0-9a-f]{64})[ ][ *]\./(.+)")
_UNFINISHED = re.compile(r"\.bulkhead-[0-9a-f]{16}")
"""A file that is being written there (`sandbox.supervisor.files`)."""


@dataclass(frozen=True)
class Inventory:
    """Store's folder → path → hash. Without ``is_whole``, what is in it is there, and other things may be too.

    ``unread``: what is there, and nobody knows what it holds, a link for one. ``unnamed``: so many files have a path
    of several lines. ``problem``: why something is not known.
    """

    files: Mapping[str, Mapping[str, str]] = field(default_factory=dict[str, Mapping[str, str]])
    unread: frozenset[str] = frozenset()
    unnamed: int = 0
    is_whole: bool = True
    problem: str = ""

    @property
    def is_known(self) -> bool:
        """Whether anything could be listed at all."""
        return self.is_whole or bool(self.files)


def is_unfinished(path: str) -> bool:
    """Say whether it is a file that is being written, and not one that somebody made."""
    return _UNFINISHED.fullmatch(path.rpartition("/")[2]) is not None


async def taken(provider: SandboxProvider, sandbox_id: str, folders: Sequence[str], *, exec_id: str) -> Inventory:
    """Return what lies in some stores' folders, which are made if they are not there."""
    request = ExecRequest(
        exec_id=exec_id,
        command=_LIST.format(" ".join(folders)),
        cwd="/",
        timeout_seconds=SECONDS,
        max_output_bytes=_MOST_OUTPUT_BYTES,
    )
    try:
        result = await provider.execute(sandbox_id, request)
    except SandboxLostError:
        raise
    except SandboxError as error:
        _log.warning("memory_folder_not_listed", cause=error.code)
        return Inventory(is_whole=False, problem=str(error))
    if result.status != "exited" or result.dropped_bytes:
        return Inventory(is_whole=False, problem="listing it took too long, or there is too much")
    found, named, unnamed = _parsed(result.stdout)
    hashed = {f"{store}{path}" for store, files in found.items() for path in files}
    is_whole = result.exit_code == 0
    return Inventory(
        files=found,
        unread=frozenset(named - hashed),
        unnamed=unnamed,
        is_whole=is_whole,
        problem="" if is_whole else " ".join(result.stderr.split())[:_MOST_SAID],
    )


def _parsed(output: str) -> tuple[dict[str, dict[str, str]], set[str], int]:
    """Return the hashed files, the names of all, as ``store/path``, and how many have a name of several lines."""
    found: dict[str, dict[str, str]] = {}
    named: set[str] = set()
    unnamed = 0
    for line in output.split("\n"):
        if line.startswith("./"):
            named.add(line.removeprefix("./"))
        elif line.startswith("odd "):
            unnamed += int(line.removeprefix("odd "))
        elif hashed := _HASHED.fullmatch(line):
            escaped, digest, name = hashed.groups()
            # GNU's puts a backslash before the line, and doubles those in the name; busybox's does not.
            store, _, path = (name.replace("\\\\", "\\") if escaped else name).partition("/")
            if path:
                found.setdefault(store, {})["/" + path] = digest
    return found, {name for name in named if "/" in name}, unnamed
