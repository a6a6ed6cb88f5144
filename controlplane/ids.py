"""Identifiers: a prefix that names the kind, then 26 characters that sort by time of creation."""

import hashlib
import re
import secrets
import time
from typing import Literal, get_args

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"

Prefix = Literal[
    "agent", "env", "sesn", "sevt", "sesrsc", "file", "turn", "ckpt", "sbx", "key", "req", "wrk",
    "vlt", "vcrd", "egr", "prc", "bdgt", "rule", "depl", "drun", "memstore", "mem", "memver",
    "fdr", "fth", "inb", "post",
]  # fmt: skip

_FORM = re.compile(f"({'|'.join((*get_args(Prefix), 'sthr'))})_[{_ALPHABET}]{{26}}")

_SHORT_NAME = re.compile(r"[\w-]{1,30}(\[\])?")
"""Our own fields have 30 characters at most, and the tokens of services 32 or more."""


def new_id(prefix: Prefix) -> str:
    """Return ``prefix_`` and 48 bits of milliseconds followed by 80 random bits, in Crockford's base 32."""
    return _id(prefix, (time.time_ns() // 1_000_000) << 80 | secrets.randbits(80))


def derived_id(prefix: Prefix, *parts: str) -> str:
    """Return the id that follows from ``parts``: the same for the same, and for no others."""
    digest = hashlib.sha256("\n".join(parts).encode()).digest()
    return _id(prefix, int.from_bytes(digest[:16]))


def _id(prefix: Prefix, value: int) -> str:
    return f"{prefix}_" + "".join(_ALPHABET[value >> shift & 31] for shift in range(125, -1, -5))


def shown_id(given: str) -> str:
    """Return an id as errors and logs may repeat it: what has another form may be a secret in the wrong place."""
    return given if _FORM.fullmatch(given) else "(not an id)"


def shown_name(given: str) -> str:
    """Return a field's or a thing's name as errors may repeat it: what is long or no word may be such a secret."""
    return given if _SHORT_NAME.fullmatch(given) else "(a long name)"
