"""The pieces of a streamed answer."""

import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Frame:
    """Bytes of a stream; ``is_chunk`` marks what a script counts and paces: pieces of content."""

    data: bytes
    is_chunk: bool = False


def encoded(data: dict[str, Any], *, event: str | None = None) -> bytes:
    """Return a server-sent event."""
    head = f"event: {event}\n" if event else ""
    return f"{head}data: {json.dumps(data, ensure_ascii=False)}\n\n".encode("utf-8", "replace")
