"""Previews of events in the making: notified to whoever streams the session, recorded nowhere."""

import json
from typing import Any

from controlplane.store.pool import Connection
from harness_adapters.contract import PreviewStarted, TextDelta

CHANNEL = "bulkhead_deltas"
"""Notified with JSON ``{"s": session_id, "f": wire frame}``."""

_LARGEST_TEXT = 1200
"""Characters per frame: Postgres takes 8,000 bytes a notification, and a character may become six when escaped."""


async def publish(connection: Connection, session_id: str, preview: PreviewStarted | TextDelta) -> None:
    """Notify the frames of one preview."""
    for frame in _frames(preview):
        payload = json.dumps({"s": session_id, "f": frame}, separators=(",", ":"))
        await connection.execute("SELECT pg_notify(%s, %s)", (CHANNEL, payload))


def _frames(preview: PreviewStarted | TextDelta) -> list[dict[str, Any]]:
    if isinstance(preview, PreviewStarted):
        return [{"type": "event_start", "event": {"id": preview.event_id, "type": preview.event_type}}]
    pieces = [preview.text[start : start + _LARGEST_TEXT] for start in range(0, len(preview.text), _LARGEST_TEXT)]
    return [
        {
            "type": "event_delta",
            "event_id": preview.event_id,
            "delta": {"type": "content_delta", "index": 0, "content": {"type": "text", "text": piece}},
        }
        for piece in pieces
    ]
