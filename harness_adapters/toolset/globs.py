"""Glob patterns with ``**`` as POSIX extended regular expressions."""

import re

_PIECE = re.compile(r"\*\*/|\*\*|\*|\?|\[[!^]?\]?[^\]/]*\]|\{|\}|,|\\.|.", re.DOTALL)
_FIXED = {"**/": "(.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
_META = re.compile(r"[*?\[{]")


def as_regex(pattern: str) -> str:
    """Return an expression that fits a whole path when ``pattern`` does."""
    depth = 0
    parts: list[str] = []
    for piece in _PIECE.findall(pattern):
        if piece == "{":
            depth += 1
            parts.append("(")
        elif piece == "}" and depth:
            depth -= 1
            parts.append(")")
        elif piece == "," and depth:
            parts.append("|")
        else:
            parts.append(_translated(piece))
    return "^" + "".join(parts) + ")" * depth + "$"


def split_root(pattern: str) -> tuple[str, str]:
    """Return the folder that an absolute ``pattern`` begins with, and the rest of it."""
    segments = pattern.split("/")
    fixed = next((n for n, segment in enumerate(segments[:-1]) if _META.search(segment)), len(segments) - 1)
    return "/".join(segments[:fixed]) or "/", "/".join(segments[fixed:])


def _translated(piece: str) -> str:
    if piece in _FIXED:
        return _FIXED[piece]
    if len(piece) > 1 and piece.startswith("["):
        return "[^" + piece[2:] if piece[1] in "!^" else piece
    char = piece[1:] if len(piece) > 1 else piece
    return f"[{char}]" if char in ".+()|$*?[{}" else "\\" + char if char in "\\^]" else char
