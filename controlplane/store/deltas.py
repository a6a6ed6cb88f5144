"""Previews of events in the making: notified to whoever streams the session, recorded nowhere."""

import json
from typing import Any

from controlplane.store.pool import Connection
from harness_adapters.contract import PreviewStarted, TextDelta
from workflows.records import TurnStart

CHANNEL = "bulkhead_deltas"
"""Notified with JSON ``{"s": session_id, "f": wire frame}``."""

_LARGEST_TEXT = 1200
"""Characters per frame: Postgres takes less than 8,000 bytes a notification, and a character has at most six."""


async def publish(connection: Connection, turn: TurnStart, preview: PreviewStarted | TextDelta) -> None:
    """Notify the frames of one preview, unless a newer attempt of the turn makes its own."""
    for frame in _frames(preview):
        wire = {"s": turn.input.session_id, "f": frame}
        payload = json.dumps(wire, separators=(",", ":"), ensure_ascii=False)
        await connection.execute(
            "SELECT pg_notify(%s, %s) FROM turns WHERE id = %s AND attempt = %s",
            (CHANNEL, payload, turn.input.turn_id, turn.attempt),
        )


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
