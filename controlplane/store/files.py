"""Files, kept in chunks so that neither writing nor reading one needs its size in memory."""

from collections.abc import AsyncIterable
from datetime import datetime
from functools import partial

from pydantic import BaseModel, ConfigDict, Field

from controlplane.errors import ConflictError, NotFoundError
from controlplane.ids import new_id, shown_id
from controlplane.store.pool import Connection, one, rows
from controlplane.store.positions import Position

CHUNK_BYTES = 1024 * 1024
"""Large enough that a row's overhead vanishes, small enough that a hundred transfers fit in memory."""


class NewFile(BaseModel):
    """A file that is about to be kept."""

    model_config = ConfigDict(frozen=True)

    id: str = Field(default_factory=partial(new_id, "file"))
    filename: str
    mime_type: str
    size_bytes: int
    sha256: bytes
    scope_session_id: str | None = None


class FileRecord(BaseModel):
    """A file as recorded, without its content."""

    model_config = ConfigDict(frozen=True)

    id: str
    filename: str
    mime_type: str
    size_bytes: int
    scope_session_id: str | None
    created_at: datetime


class FileFilter(BaseModel):
    """What a listing of files is narrowed to."""

    model_config = ConfigDict(frozen=True)

    ids: list[str] | None = None
    scope_session_id: str | None = None
    beyond: Position | None = None


async def create(
    connection: Connection, workspace_id: str, *, file: NewFile, chunks: AsyncIterable[bytes]
) -> FileRecord:
    """Keep a file; every one of ``chunks`` but the last has `CHUNK_BYTES` bytes."""
    row = await one(
        connection,
        "INSERT INTO files (id, workspace_id, filename, mime_type, size_bytes, sha256, scope_session_id)"
        " VALUES (%(id)s, %(workspace_id)s, %(filename)s, %(mime_type)s, %(size_bytes)s, %(sha256)s,"
        " %(scope_session_id)s)"
        " RETURNING id, filename, mime_type, size_bytes, scope_session_id, created_at",
        {"workspace_id": workspace_id, **file.model_dump()},
    )
    record = FileRecord.model_validate(row)
    ordinal = 0
    async for chunk in chunks:
        await connection.execute(
            "INSERT INTO file_chunks (file_id, ordinal, workspace_id, content)"
            " VALUES (%(id)s, %(ordinal)s, %(workspace_id)s, %(content)b)",
            {"id": record.id, "ordinal": ordinal, "workspace_id": workspace_id, "content": chunk},
        )
        ordinal += 1
    return record


async def exists(connection: Connection, file_id: str) -> bool:
    """Say whether there is such a file."""
    return await one(connection, "SELECT id FROM files WHERE id = %(id)s", {"id": file_id}) is not None


def named(path: str) -> str:
    """Return the last part of a path as a file may be called; empty if nothing is left of it."""
    name = path.replace("\\", "/").rpartition("/")[2]
    return "".join(character for character in name if character.isprintable())[-255:]


async def get(connection: Connection, file_id: str) -> FileRecord:
    """Return a file without its content; raises `NotFoundError`."""
    row = await one(
        connection,
        "SELECT id, filename, mime_type, size_bytes, scope_session_id, created_at FROM files WHERE id = %(id)s",
        {"id": file_id},
    )
    if row is None:
        raise _unknown(file_id)
    return FileRecord.model_validate(row)


async def chunk(connection: Connection, file_id: str, ordinal: int) -> bytes:
    """Return one chunk of a file's content; empty behind its end, and where the file is gone."""
    cursor = await connection.execute(
        "SELECT content FROM file_chunks WHERE file_id = %(id)s AND ordinal = %(ordinal)s",
        {"id": file_id, "ordinal": ordinal},
        binary=True,
    )
    row = await cursor.fetchone()
    return bytes(row["content"]) if row else b""


async def missing(connection: Connection, file_ids: list[str]) -> list[str]:
    """Return those of ``file_ids`` that do not exist, and keep the others until the caller's transaction ends."""
    found = await rows(connection, "SELECT id FROM files WHERE id = ANY(%(ids)s) FOR KEY SHARE", {"ids": file_ids})
    known = {row["id"] for row in found}
    return [file_id for file_id in file_ids if file_id not in known]


async def delete(connection: Connection, file_id: str) -> None:
    """Remove a file; raises `ConflictError` while a session that can still run has it mounted."""
    locked = await one(connection, "SELECT id FROM files WHERE id = %(id)s FOR UPDATE", {"id": file_id})
    if locked is None:
        raise _unknown(file_id)
    user = await one(
        connection,
        "SELECT s.id FROM session_resources r JOIN sessions s ON s.id = r.session_id"
        " WHERE r.type = 'file' AND r.config ->> 'file_id' = %(id)s"
        "   AND s.archived_at IS NULL AND s.status <> 'terminated' LIMIT 1",
        {"id": file_id},
    )
    if user is not None:
        raise ConflictError(
            f"file {file_id!r} is mounted in session {user['id']!r}",
            code="file_in_use",
            field="file_id",
            next_step="delete the session's resource, or archive the session, then delete the file",
        )
    await connection.execute("DELETE FROM files WHERE id = %(id)s", {"id": file_id})


async def listing(connection: Connection, narrowed: FileFilter, *, limit: int) -> list[FileRecord]:
    """Return up to ``limit`` files, newest first."""
    found = await rows(
        connection,
        """
        SELECT id, filename, mime_type, size_bytes, scope_session_id, created_at
          FROM files
         WHERE (%(ids)s::text[] IS NULL OR id = ANY(%(ids)s))
           AND (%(scope)s::text IS NULL OR scope_session_id = %(scope)s)
           AND (%(beyond_at)s::timestamptz IS NULL
                OR (created_at, id) < (%(beyond_at)s::timestamptz, %(beyond_id)s::text))
         ORDER BY created_at DESC, id DESC
         LIMIT %(limit)s
        """,
        {
            "ids": narrowed.ids,
            "scope": narrowed.scope_session_id,
            "beyond_at": narrowed.beyond.created_at if narrowed.beyond else None,
            "beyond_id": narrowed.beyond.id if narrowed.beyond else None,
            "limit": limit,
        },
    )
    return [FileRecord.model_validate(row) for row in found]


def _unknown(file_id: str) -> NotFoundError:
    return NotFoundError(
        f"no file {shown_id(file_id)!r}", code="file_not_found", field="file_id", next_step="list the files"
    )
