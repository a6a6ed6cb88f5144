"""Globs and regular expressions that take time linear in what they are tried on; pure."""

import re
from functools import lru_cache
from typing import Any

MAX_PATTERN_CHARS = 500
MAX_VALUE_CHARS = 100_000
"""With `_MAX_STEPS` it bounds a match at about a second; no command may be longer either."""

_MAX_STEPS = 2500
_META = re.compile(r"[\\*?\[\]]")
_PIECE = re.compile(r"\\.|\[[!^]?\]?[^\]]*\]|.", re.DOTALL)
_SPECIAL_IN_CLASS = re.compile(r"[\\\[\]^&~|]")


class PatternError(ValueError):
    """A pattern that means nothing, or that nothing can be tried on."""


def check_regex(text: str) -> str:
    """Return ``text`` if it is a regular expression in RE2's syntax; raises `PatternError`."""
    _compiled(text)
    return text


def check_glob(text: str) -> str:
    """Return ``text`` if it is a glob; raises `PatternError`."""
    _compiled(_as_regex(text))
    return text


def escaped(text: str) -> str:
    """Return the glob that fits this text alone."""
    return _META.sub(r"\\\g<0>", text)


def fits_regex(text: str, value: str) -> bool:
    """Say whether the expression fits the whole value; ``.`` fits a newline too."""
    if len(value) > MAX_VALUE_CHARS:
        raise PatternError(f"a value has {len(value)} characters, more than the {MAX_VALUE_CHARS} that are looked at")
    return _compiled(text).fullmatch(value) is not None


def fits_glob(text: str, value: str) -> bool:
    """Say whether the glob fits the whole value; ``*`` fits any characters, ``/`` too."""
    return fits_regex(_as_regex(text), value)


@lru_cache(maxsize=1024)
def _compiled(text: str) -> Any:
    import re2

    options = re2.Options()
    options.log_errors = False
    options.dot_nl = True
    options.max_mem = 1 << 20
    try:
        compiled = re2.compile(text, options=options)
    except re2.error as error:
        # Without what follows the colon, which repeats the pattern.
        cause = error.args[0].decode(errors="replace") if isinstance(error.args[0], bytes) else str(error)
        raise PatternError(f"not a regular expression (RE2): {cause.partition(':')[0]}") from error
    if compiled.programsize > _MAX_STEPS:
        raise PatternError("the pattern is too large: it counts too many repetitions")
    return compiled


@lru_cache(maxsize=1024)
def _as_regex(glob: str) -> str:
    return "".join(map(_translated, _PIECE.findall(glob)))


def _translated(piece: str) -> str:
    if piece == "*":
        return ".*"
    if piece == "?":
        return "."
    if len(piece) > 1 and piece.startswith("["):
        negated = "^" if piece[1] in "!^" else ""
        inner = _SPECIAL_IN_CLASS.sub(r"\\\g<0>", piece[2:-1] if negated else piece[1:-1])
        return f"[{negated}{inner}]"
    return re.escape(piece[-1])
