"""What of this host's own system a sandbox without an image sees: programs and what they need, nobody's data."""

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
