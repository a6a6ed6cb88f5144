"""What a button carries: proof that we made it for exactly this call with exactly these arguments in this thread."""

import hashlib
import hmac
import json
from typing import Any


def seal(key: bytes, thread_id: str, tool_use_id: str, arguments: dict[str, Any]) -> str:
    """Return the seal of a call; without ``key`` nobody can make it, and another call's does not match."""
    named = json.dumps([thread_id, tool_use_id, arguments], sort_keys=True, ensure_ascii=True).encode()
    return hmac.digest(key, hashlib.sha256(named).digest(), "sha256").hex()[:40]


def holds(given: str, expected: str) -> bool:
    """Compare without telling how far they agree."""
    return hmac.compare_digest(given.encode("utf-8", "replace"), expected.encode())
