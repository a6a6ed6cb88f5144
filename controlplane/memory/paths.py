"""Paths of memories: as the wire format has them, and as a folder in a sandbox can show them."""

import re
import unicodedata

MAX_PATH_BYTES = 1024
MAX_SEGMENTS = 20
_UNSEEN = {"Cc", "Cf", "Zl", "Zp", "Cs"}


def problem(path: str) -> str | None:
    """Return why a memory cannot have this path, or None."""
    segments = path.split("/")[1:]
    if not path.startswith("/"):
        return "a path starts with '/'"
    if len(path.encode(errors="replace")) > MAX_PATH_BYTES:
        return f"a path has at most {MAX_PATH_BYTES} bytes"
    if len(segments) > MAX_SEGMENTS:
        return f"a path has at most {MAX_SEGMENTS} segments"
    if any(segment in {"", ".", ".."} for segment in segments):
        return "no segment of a path is empty, '.' or '..'"
    if any(len(segment.encode(errors="replace")) > 255 for segment in segments):
        return "a segment of a path has at most 255 bytes"
    if any(unicodedata.category(character) in _UNSEEN for character in path):
        return "a path has no control or format characters"
    if unicodedata.normalize("NFC", path) != path:
        return "a path is in Unicode Normalization Form C"
    return None


def slug(name: str) -> str:
    """Return the name of a store's folder under /mnt/memory."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:100] or "store"
