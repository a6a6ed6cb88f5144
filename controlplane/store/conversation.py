"""A conversation as its harness gets it: with the content of the files that it refers to, as far as it fits."""

import base64
from typing import Any

from psycopg.rows import DictRow

from controlplane.store import files
from controlplane.store.pool import Connection, rows
from workflows import history
from workflows.history import LoggedEvent

Json = dict[str, Any]

MAX_BYTES = 20_000_000
"""Of all files of a conversation, the newest first: in base64 they stay below the 32 MB that providers take."""

_IMAGES = {"image/png", "image/jpeg", "image/gif", "image/webp"}
_TEXTS = {"application/json", "application/xml", "application/yaml", "application/x-yaml", "application/toml"}


async def read(connection: Connection, session_id: str, *, only: list[str] | None = None) -> list[LoggedEvent]:
    """Return what a session's conversation consists of, from its last compaction on; ``only``: these of it."""
    found = await rows(
        connection,
        "SELECT id, type, payload, internal FROM events WHERE session_id = %(id)s AND type = ANY(%(types)s)"
        " AND processed_at IS NOT NULL AND NOT internal ? 'withdrawn'"
        " AND (%(only)s::text[] IS NULL OR id = ANY(%(only)s))"
        " AND position >= coalesce((SELECT coalesce(k.position, c.position) FROM events c"
        "   LEFT JOIN events k ON k.id = c.internal ->> 'kept_from'"
        "  WHERE c.session_id = %(id)s AND c.type = %(compacted)s ORDER BY c.seq DESC LIMIT 1), 0)"
        " ORDER BY position, seq",
        {
            "id": session_id,
            "types": list(history.HISTORY_TYPES),
            "only": only,
            "compacted": history.COMPACTED,
        },
    )
    return await resolve(connection, [LoggedEvent.model_validate(row) for row in found])


async def resolve(connection: Connection, logged: list[LoggedEvent]) -> list[LoggedEvent]:
    """Return the events with the content of the files in place of their ids.

    What does not fit any more, or is of a kind that models do not take, keeps its id, which the harness turns into a
    note; what has been deleted is a note already.
    """
    wanted = {block["source"]["file_id"] for event in logged for block in _blocks(event) if _is_file(block)}
    if not wanted:
        return logged
    found = await rows(
        connection,
        "SELECT id, filename, mime_type, size_bytes FROM files WHERE id = ANY(%(ids)s)",
        {"ids": sorted(wanted)},
    )
    reader = _Reader(connection, {row["id"]: row for row in found})
    newest_first = [await reader.read(event) for event in reversed(logged)]
    return newest_first[::-1]


def _blocks(event: LoggedEvent) -> list[Json]:
    return event.payload.get("content") or []


def _is_file(block: Json) -> bool:
    return block.get("type") in {"image", "document"} and block["source"].get("type") == "file"


class _Reader:
    def __init__(self, connection: Connection, known: dict[str, DictRow]):
        self._connection = connection
        self._known = known
        self._left = MAX_BYTES

    async def read(self, event: LoggedEvent) -> LoggedEvent:
        if not any(map(_is_file, _blocks(event))):
            return event
        content = [await self._resolved(block) if _is_file(block) else block for block in _blocks(event)]
        return event.model_copy(update={"payload": {**event.payload, "content": content}})

    async def _resolved(self, block: Json) -> Json:
        file_id = block["source"]["file_id"]
        file = self._known.get(file_id)
        if file is None:
            return {"type": "text", "text": f"[{block['type']} {file_id!r}: the file has been deleted]"}
        kind = _kind(block["type"], file["mime_type"])
        if kind is None or file["size_bytes"] > self._left:
            return block
        self._left -= file["size_bytes"]
        data = await self._content(file_id)
        titled = block if block["type"] == "image" else {**block, "title": block.get("title") or file["filename"]}
        if kind == "text":
            source = {"type": "text", "media_type": "text/plain", "data": data.decode(errors="replace")}
        else:
            source = {"type": "base64", "media_type": file["mime_type"], "data": base64.b64encode(data).decode()}
        return {**titled, "source": source}

    async def _content(self, file_id: str) -> bytes:
        parts: list[bytes] = []
        while part := await files.chunk(self._connection, file_id, len(parts)):
            parts.append(part)
        return b"".join(parts)


def _kind(block_type: str, mime_type: str) -> str | None:
    """Return how a model takes a file of that type in that place; None: not at all."""
    media_type = mime_type.partition(";")[0].strip().lower()
    if block_type == "image":
        return "base64" if media_type in _IMAGES else None
    if media_type.startswith("text/") or media_type in _TEXTS:
        return "text"
    return "base64" if media_type == "application/pdf" else None
