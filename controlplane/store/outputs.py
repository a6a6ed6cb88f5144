"""What is kept of sessions' outputs, and what a turn's end says of it."""

import mimetypes
from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from typing import Any, LiteralString

from controlplane.ids import derived_id
from controlplane.store import files
from controlplane.store.files import CHUNK_BYTES, NewFile
from controlplane.store.pool import Connection, Database, one, rows
from sandbox.contract import FileStat
from workflows.contracts import OutputsInput, TurnInput
from workflows.records import LeftOut, SessionGoneError

_MOST_NAMED = 20

_UNKEPT: LiteralString = """
    SELECT c.id AS tool_use_id, c.sandbox_id, b.host
      FROM sessions s JOIN tool_calls c ON c.session_id = s.id
      JOIN sandboxes b ON b.id = c.sandbox_id AND b.status = 'ready'
     WHERE s.id = %(session)s
       AND (c.ended_at > coalesce(s.outputs_at, '-infinity')
            OR EXISTS (SELECT FROM session_outputs o WHERE o.session_id = s.id AND o.left_out = 'later'))
       AND EXISTS (SELECT FROM workers w WHERE w.kind = 'sandbox' AND w.host = b.host)
     ORDER BY c.ended_at DESC NULLS LAST LIMIT 1"""

_OVERLOOKED: LiteralString = """
    SELECT FROM turns t JOIN sessions s ON s.id = t.session_id JOIN tool_calls c ON c.session_id = s.id
     WHERE t.id = %(turn)s AND c.sandbox_id IS NOT NULL AND c.ended_at > t.started_at
       AND c.ended_at > coalesce(s.outputs_at, '-infinity') LIMIT 1"""


class PostgresOutputs:
    """`workflows.records.OutputRecords` on Postgres."""

    def __init__(self, database: Database):
        self._database = database

    async def known(self, wanted: OutputsInput) -> tuple[datetime, Mapping[str, tuple[int, datetime]]]:
        """See `OutputRecords.known`."""
        async with self._database.transaction(wanted.workspace_id) as connection:
            (now,) = await rows(connection, "SELECT clock_timestamp() AS now", {})
            found = await rows(
                connection,
                "SELECT path, size_bytes, changed_at FROM session_outputs WHERE session_id = %(id)s"
                " AND changed_at IS NOT NULL AND left_out IS DISTINCT FROM 'later'",
                {"id": wanted.session_id},
            )
        return now["now"], {row["path"]: (row["size_bytes"], row["changed_at"]) for row in found}

    async def keep(self, wanted: OutputsInput, path: str, *, file: FileStat, content: bytes, sha256: bytes) -> bool:
        """See `OutputRecords.keep`."""
        file_id = derived_id("file", wanted.session_id, path, sha256.hex())
        async with self._database.transaction(wanted.workspace_id) as connection:
            await _hold(connection, wanted)
            before = await one(
                connection,
                "SELECT file_id FROM session_outputs WHERE session_id = %(id)s AND path = %(path)s",
                {"id": wanted.session_id, "path": path},
            )
            if before is not None and before["file_id"] == file_id:
                # Written anew with what it had: whoever has been told of it need not be again.
                await connection.execute(
                    "UPDATE session_outputs SET size_bytes = %s, changed_at = %s WHERE session_id = %s AND path = %s",
                    (len(content), file.changed_at, wanted.session_id, path),
                )
                return False
            if not await files.exists(connection, file_id):
                new = NewFile(
                    id=file_id,
                    filename=files.named(path) or "unnamed",
                    mime_type=mimetypes.guess_type(path)[0] or "application/octet-stream",
                    size_bytes=len(content),
                    sha256=sha256,
                    scope_session_id=wanted.session_id,
                )
                await files.create(connection, wanted.workspace_id, file=new, chunks=_chunks(content))
            await _note(connection, wanted, path, file, file_id=file_id)
            return True

    async def leave_out(self, wanted: OutputsInput, path: str, *, file: FileStat, reason: LeftOut) -> None:
        """See `OutputRecords.leave_out`."""
        async with self._database.transaction(wanted.workspace_id) as connection:
            await _hold(connection, wanted)
            await _note(connection, wanted, path, file, left_out=reason)

    async def done(self, wanted: OutputsInput, began: datetime) -> None:
        """See `OutputRecords.done`."""
        async with self._database.transaction(wanted.workspace_id) as connection:
            await connection.execute(
                "UPDATE sessions SET outputs_at = greatest(outputs_at, %s) WHERE id = %s", (began, wanted.session_id)
            )


async def unkept(connection: Connection, turn: TurnInput) -> tuple[str, OutputsInput] | None:
    """Return whose outputs are to be kept, and on which host; None if no command has left any in a living sandbox."""
    row = await one(connection, _UNKEPT, {"session": turn.session_id})
    if row is None:
        return None
    wanted = OutputsInput(
        session_id=turn.session_id,
        workspace_id=turn.workspace_id,
        turn_id=turn.turn_id,
        sandbox_id=row["sandbox_id"],
        tool_use_id=row["tool_use_id"],
    )
    return row["host"], wanted


async def told(connection: Connection, turn: TurnInput) -> dict[str, Any]:
    """Return what a turn's last event says of outputs, in the transaction that records it: what none has said yet."""
    await connection.execute(
        "UPDATE session_outputs SET told_turn_id = %(turn)s WHERE session_id = %(session)s AND told_turn_id IS NULL",
        {"session": turn.session_id, "turn": turn.turn_id},
    )
    found = await rows(
        connection,
        "SELECT path, file_id, size_bytes, left_out FROM session_outputs"
        " WHERE session_id = %(session)s AND told_turn_id = %(turn)s ORDER BY path",
        {"session": turn.session_id, "turn": turn.turn_id},
    )
    kept = [{name: row[name] for name in ("path", "file_id", "size_bytes")} for row in found if row["file_id"]]
    left = [{"path": row["path"], "reason": row["left_out"]} for row in found if row["left_out"]]
    told: dict[str, Any] = {}
    if kept:
        told["files"] = kept
    if left:
        told |= {"left_out": left[:_MOST_NAMED], "left_out_count": len(left)}
    if await one(connection, _OVERLOOKED, {"turn": turn.turn_id}) is not None:
        told["problem"] = "the sandbox could not be looked into; what is still in it is kept at a later turn's end"
    return {"outputs": told} if told else {}


async def _hold(connection: Connection, wanted: OutputsInput) -> None:
    """Keep the session from being deleted meanwhile."""
    row = await one(connection, "SELECT id FROM sessions WHERE id = %(id)s FOR KEY SHARE", {"id": wanted.session_id})
    if row is None:
        raise SessionGoneError(f"session {wanted.session_id!r} is gone")


async def _note(
    connection: Connection,
    wanted: OutputsInput,
    path: str,
    file: FileStat,
    *,
    file_id: str | None = None,
    left_out: LeftOut | None = None,
) -> None:
    await connection.execute(
        "INSERT INTO session_outputs (session_id, workspace_id, path, size_bytes, changed_at, file_id, left_out)"
        " VALUES (%(session)s, %(workspace)s, %(path)s, %(size)s, %(changed)s, %(file)s, %(left)s)"
        " ON CONFLICT (session_id, path) DO UPDATE SET size_bytes = excluded.size_bytes,"
        " changed_at = excluded.changed_at, file_id = excluded.file_id, left_out = excluded.left_out,"
        " told_turn_id = NULL",
        {
            "session": wanted.session_id,
            "workspace": wanted.workspace_id,
            "path": path,
            "size": file.size_bytes,
            "changed": file.changed_at,
            "file": file_id,
            "left": left_out,
        },
    )


async def _chunks(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), CHUNK_BYTES):
        yield content[start : start + CHUNK_BYTES]
