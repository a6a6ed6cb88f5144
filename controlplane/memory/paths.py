"""Paths of memories: as the wire format has them, and as a folder in a sandbox can show them."""

import re
import unicodedata

MAX_PATH_BYTES = 1024
MAX_SEGMENTS = 20
MAX_SEGMENT_BYTES = 255
"""What file systems take for one name."""
_UNSEEN = {"Cc", "Cf", "Zl", "Zp", "Cs"}


def problem(path: str) -> str | None:
    """Return why a memory cannot have this path, or None."""
    segments = path.split("/")[1:]
    sizes = [len(segment.encode(errors="replace")) for segment in segments]
    checks = (
        (not path.startswith("/"), "a path starts with '/'"),
        (len(path.encode(errors="replace")) > MAX_PATH_BYTES, f"a path has at most {MAX_PATH_BYTES} bytes"),
        (len(segments) > MAX_SEGMENTS, f"a path has at most {MAX_SEGMENTS} segments"),
        (any(segment in {"", ".", ".."} for segment in segments), "no segment of a path is empty, '.' or '..'"),
        (max(sizes, default=0) > MAX_SEGMENT_BYTES, f"a segment of a path has at most {MAX_SEGMENT_BYTES} bytes"),
        (any(unicodedata.category(each) in _UNSEEN for each in path), "a path has no control or format characters"),
        (unicodedata.normalize("NFC", path) != path, "a path is in Unicode Normalization Form C"),
    )
    return next((said for wrong, said in checks if wrong), None)


def slug(name: str) -> str:
    """Return the name of a store's folder under /mnt/memory."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:100] or "store"
