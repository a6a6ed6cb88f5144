"""Identifiers: a prefix that names the kind, then 26 characters that sort by time of creation."""

import secrets
import time
from typing import Literal

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"

Prefix = Literal[
    "agent", "env", "sesn", "sevt", "sesrsc", "file", "turn", "ckpt", "sbx", "key", "req", "wrk",
    "vlt", "vcrd", "egr",
]  # fmt: skip


def new_id(prefix: Prefix) -> str:
    """Return ``prefix_`` and 48 bits of milliseconds followed by 80 random bits, in Crockford's base 32."""
    value = (time.time_ns() // 1_000_000) << 80 | secrets.randbits(80)
    return f"{prefix}_" + "".join(_ALPHABET[value >> shift & 31] for shift in range(125, -1, -5))
