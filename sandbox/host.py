"""What of this host's own system a sandbox without an image sees: programs and what they need, nobody's data."""

from pathlib import Path

TOP_FOLDERS = tuple(Path("/") / name for name in ("bin", "lib", "lib32", "lib64", "libx32", "sbin"))
"""Links into /usr on a merged system, folders on others."""
SHOWN_OF_ETC = (
    "alternatives", "ca-certificates", "debian_version", "fonts", "inputrc", "java-17-openjdk",
    "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime", "magic", "mime.types", "os-release", "perl", "pki",
    "profile", "profile.d", "bash.bashrc", "protocols", "python3", "python3.11", "services", "ssl", "terminfo",
    "timezone", "xml",
)  # fmt: skip
