"""Checkpoints: what is kept of a sandbox's folders, in pieces, one whole set a session."""

from collections.abc import AsyncIterator, Sequence

from psycopg.types.json import Jsonb

from controlplane.ids import new_id
from controlplane.store.pool import Database, one
from sandbox.contract import SandboxLostError
from sandbox.records import Checkpoint, KeptFolder, SandboxRow


class PostgresCheckpoints:
    """`sandbox.records.CheckpointRecords` on Postgres.

    The session's row is locked only to complete one: as long as pieces are written, its events go on.
    """

    def __init__(self, database: Database):
        self._database = database

    async def begin(self, row: SandboxRow) -> str:
        """See `CheckpointRecords.begin`."""
        checkpoint_id = new_id("ckpt")
        async with self._database.transaction(row.workspace_id) as connection:
            await connection.execute(
                "DELETE FROM checkpoints WHERE session_id = %s AND NOT complete", (row.session_id,)
            )
            await connection.execute(
                "INSERT INTO checkpoints (id, workspace_id, session_id, sandbox_id) VALUES (%s, %s, %s, %s)",
                (checkpoint_id, row.workspace_id, row.session_id, row.id),
            )
        return checkpoint_id

    async def add(self, row: SandboxRow, checkpoint_id: str, *, folder: str, ordinal: int, content: bytes) -> None:
        """See `CheckpointRecords.add`."""
        async with self._database.transaction(row.workspace_id) as connection:
            await connection.execute(
                "INSERT INTO checkpoint_chunks (checkpoint_id, folder, ordinal, workspace_id, content)"
                " VALUES (%(id)s, %(folder)s, %(ordinal)s, %(workspace_id)s, %(content)b)",
                {
                    "id": checkpoint_id,
                    "folder": folder,
                    "ordinal": ordinal,
                    "workspace_id": row.workspace_id,
                    "content": content,
                },
            )

    async def complete(self, row: SandboxRow, checkpoint_id: str, folders: Sequence[KeptFolder]) -> None:
        """See `CheckpointRecords.complete`."""
        async with self._database.transaction(row.workspace_id) as connection:
            await connection.execute("SELECT FROM sessions WHERE id = %s FOR UPDATE", (row.session_id,))
            ended = await connection.execute(
                "UPDATE sandboxes SET status = 'ended', ended_at = clock_timestamp()"
                " WHERE id = %s AND status = 'retiring'",
                (row.id,),
            )
            if ended.rowcount == 0:
                raise SandboxLostError(f"sandbox {row.id!r} was ended by somebody else")
            await connection.execute(
                "DELETE FROM checkpoints WHERE session_id = %s AND id <> %s", (row.session_id, checkpoint_id)
            )
            await connection.execute(
                "UPDATE checkpoints SET complete = true, taken_at = clock_timestamp(), folders = %s WHERE id = %s",
                (Jsonb([folder.model_dump() for folder in folders]), checkpoint_id),
            )

    async def newest(self, row: SandboxRow) -> Checkpoint | None:
        """See `CheckpointRecords.newest`."""
        async with self._database.transaction(row.workspace_id) as connection:
            found = await one(
                connection,
                "SELECT id, workspace_id, taken_at, folders FROM checkpoints WHERE session_id = %(id)s AND complete",
                {"id": row.session_id},
            )
        return Checkpoint.model_validate(found) if found else None

    async def content(self, checkpoint: Checkpoint, folder: str) -> AsyncIterator[bytes]:
        """See `CheckpointRecords.content`."""
        ordinal = 0
        while True:
            async with self._database.transaction(checkpoint.workspace_id) as connection:
                cursor = await connection.execute(
                    "SELECT content FROM checkpoint_chunks"
                    " WHERE checkpoint_id = %(id)s AND folder = %(folder)s AND ordinal = %(ordinal)s",
                    {"id": checkpoint.id, "folder": folder, "ordinal": ordinal},
                    binary=True,
                )
                found = await cursor.fetchone()
            if found is None:
                return
            yield bytes(found["content"])
            ordinal += 1
