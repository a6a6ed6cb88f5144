"""Blocks: memories with a type, which an agent reads at the start of every turn; how they are sized and changed."""

import json
import re
from collections.abc import Mapping
from typing import Any, cast

Document = dict[str, Any]

ORDER = ("persona", "user_profile", "preferences", "task_state", "decisions", "facts")
"""The types that need no schema, in the order in which a prompt has them."""

SIZE_LIMITS: Mapping[str, int] = {
    "persona": 4_000,
    "user_profile": 4_000,
    "preferences": 4_000,
    "task_state": 8_000,
    "decisions": 8_000,
    "facts": 8_000,
}
"""Characters; some thousand tokens, so that all of them fit in a prompt beside the conversation."""

OTHER_SIZE_LIMIT = 8_000
NEVER_FROM_OUTSIDE = frozenset({"persona"})
"""Types that are protected whether or not their memory says so."""

_TYPE = re.compile(r"[a-z][a-z0-9_]{0,63}")
TEXT = "text"
"""The one field of the document that stands for a block of plain text."""


def is_type(name: str) -> bool:
    """Say whether a type may be called so."""
    return _TYPE.fullmatch(name) is not None


def size_limit(memory_type: str | None, own: int | None) -> int | None:
    """Return how many characters a memory may have, beside the limit that all have."""
    if own is not None or memory_type is None:
        return own
    return SIZE_LIMITS.get(memory_type, OTHER_SIZE_LIMIT)


def document(content: str) -> Document:
    """Return a content as the object that a merge patch changes; plain text is the field ``text``."""
    try:
        found: Any = json.loads(content) if content.lstrip().startswith("{") else None
    except (ValueError, RecursionError):
        found = None
    return cast(Document, found) if isinstance(found, dict) else {TEXT: content}


def content_of(changed: Document) -> str:
    """Return a document as the content of a memory."""
    if set(changed) == {TEXT} and isinstance(changed[TEXT], str):
        return changed[TEXT]
    return json.dumps(changed, ensure_ascii=False, indent=1)


def merged(target: Any, patch: Any) -> Any:
    """Apply a JSON Merge Patch (RFC 7396)."""
    if not isinstance(patch, dict):
        return patch
    result: Document = dict(cast(Document, target)) if isinstance(target, dict) else {}
    for name, value in cast(Document, patch).items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), value)
    return result
