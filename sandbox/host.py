"""What of this host's own system a sandbox without an image sees: programs and what they need, nobody's data."""

import os
from collections.abc import Iterator
from pathlib import Path

TOP_FOLDERS = tuple(Path("/") / name for name in ("bin", "lib", "lib32", "lib64", "libx32", "sbin"))
"""Links into /usr on a merged system, folders on others."""
SHOWN_OF_ETC = (
    "alternatives", "ca-certificates", "debian_version", "fonts", "inputrc", "java-17-openjdk",
    "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime", "magic", "mime.types", "os-release", "perl", "pki",
    "profile", "profile.d", "bash.bashrc", "protocols", "python3", "python3.11", "services", "ssl", "terminfo",
    "timezone", "xml",
)  # fmt: skip
FIRST_UID, UIDS = 0x70000000, 1 << 24
"""The sandboxes' own users where the worker is root: above what distributions, engines and directories hand out."""
_EVERYONE_READS, _EVERYONE_ENTERS = 0o004, 0o005


def files_of_etc() -> dict[str, Path]:
    """Return name below /etc → file or link, for what is shown and what every user of this host may read."""
    return {str(path.relative_to("/etc")): path for name in SHOWN_OF_ETC for path in _readable(Path("/etc", name))}


def _readable(path: Path) -> Iterator[Path]:
    if path.is_symlink():
        yield path
    elif path.is_dir() and path.stat().st_mode & _EVERYONE_ENTERS == _EVERYONE_ENTERS:
        for entry in sorted(path.iterdir()):
            yield from _readable(entry)
    elif path.is_file() and path.stat().st_mode & _EVERYONE_READS:
        yield path


def can_become_others() -> bool:
    """Say whether sandboxes may run as users of their own: with root, but not with that of a few users only."""
    if os.geteuid() != 0 or Path("/proc/self/setgroups").read_text().strip() != "allow":
        return False
    ranges = [[int(word) for word in line.split()] for line in Path("/proc/self/uid_map").read_text().splitlines()]
    return any(first <= FIRST_UID and first + count >= FIRST_UID + UIDS for first, _, count in ranges)
