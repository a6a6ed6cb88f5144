"""/v1/files: content that sessions work on, uploaded and downloaded as a stream."""

import hashlib
import mimetypes
from collections.abc import AsyncIterator
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Query
from starlette.datastructures import UploadFile
from starlette.responses import Response, StreamingResponse

from controlplane.api.exchange import CurrentExchange, Exchange, json_response
from controlplane.api.pages import DEFAULT_LIMIT, LimitParam, PageParam, cut, decode
from controlplane.api.uploads import uploaded_file
from controlplane.checks import refused
from controlplane.store import files
from controlplane.store.files import CHUNK_BYTES, FileFilter, FileRecord, NewFile
from controlplane.store.pool import Connection
from controlplane.store.positions import Position
from controlplane.wire.common import Page
from controlplane.wire.files import FileDeleted, FileMetadata, FileScope

router = APIRouter(prefix="/v1/files", tags=["files"])

_MAX_IDS = 100
_UPLOAD_SCHEMA = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["file"],
                "properties": {"file": {"type": "string", "format": "binary"}},
            }
        }
    },
}


@router.post("", response_model=FileMetadata, openapi_extra={"requestBody": _UPLOAD_SCHEMA})
async def upload_file(exchange: CurrentExchange) -> Response:
    """Upload one file of up to 500 MB as the part `file` of a multipart form."""
    async with uploaded_file(exchange.request) as upload:
        file = await _described(upload, exchange)

        async def effect(connection: Connection) -> FileMetadata:
            await upload.seek(0)
            return _wire(await files.create(connection, exchange.workspace_id, file=file, chunks=_chunks(upload)))

        return await exchange.once(effect)


@router.get("", response_model=Page[FileMetadata])
async def list_files(
    exchange: CurrentExchange,
    ids: Annotated[list[str] | None, Query(description="Only these; not together with page.")] = None,
    ids_bracketed: Annotated[list[str] | None, Query(alias="ids[]")] = None,
    scope_id: Annotated[str | None, Query(max_length=128, description="Only files of this session.")] = None,
    limit: LimitParam = DEFAULT_LIMIT,
    page: PageParam = None,
) -> Response:
    """List files, newest first."""
    wanted: list[str] = [*dict[str, None].fromkeys((ids or []) + (ids_bracketed or []))]
    if len(wanted) > _MAX_IDS:
        raise refused("ids", f"more than {_MAX_IDS} ids")
    if wanted and page:
        raise refused("ids", "ids and page exclude each other")
    narrowed = FileFilter(ids=wanted or None, scope_session_id=scope_id, beyond=decode(page, "files").position())
    limit = _MAX_IDS if wanted else limit
    async with exchange.transaction() as connection:
        found = await files.listing(connection, narrowed, limit=limit + 1)
    shown, following = cut(found, limit, "files", lambda f: Position(created_at=f.created_at, id=f.id))
    return json_response(Page[FileMetadata](data=[_wire(record) for record in shown], next_page=following))


@router.get("/{file_id}", response_model=FileMetadata)
async def get_file(exchange: CurrentExchange, file_id: str) -> Response:
    """Get what is known of a file."""
    async with exchange.transaction() as connection:
        return json_response(_wire(await files.get(connection, file_id)))


@router.get(
    "/{file_id}/content",
    response_class=StreamingResponse,
    responses={200: {"content": {"*/*": {"schema": {"type": "string", "format": "binary"}}}}},
)
async def download_file(exchange: CurrentExchange, file_id: str) -> StreamingResponse:
    """Download a file's content."""
    async with exchange.transaction() as connection:
        record = await files.get(connection, file_id)
    headers = {
        "content-length": str(record.size_bytes),
        "content-disposition": f"attachment; filename*=UTF-8''{quote(record.filename, safe='')}",
        "x-content-type-options": "nosniff",
    }
    response = StreamingResponse(_content(exchange, record), headers=headers)
    response.headers["content-type"] = record.mime_type
    return response


@router.delete("/{file_id}", response_model=FileDeleted)
async def delete_file(exchange: CurrentExchange, file_id: str) -> Response:
    """Delete a file that no session which can still run has mounted."""
    async with exchange.transaction() as connection:
        await files.delete(connection, file_id)
    return json_response(FileDeleted(id=file_id))


async def _described(upload: UploadFile, exchange: Exchange) -> NewFile:
    mime_type = _mime_type(upload)
    filename = _filename(upload, mime_type)
    content = hashlib.sha256()
    size = 0
    async for chunk in _chunks(upload):
        content.update(chunk)
        size += len(chunk)
    exchange.hash_in(f"{filename}\n{mime_type}\n".encode())
    exchange.hash_in(content.digest())
    return NewFile(filename=filename, mime_type=mime_type, size_bytes=size, sha256=content.digest())


def _mime_type(upload: UploadFile) -> str:
    given = (upload.content_type or "").strip()
    if given and given.isascii() and given.isprintable() and len(given) <= 255 and "/" in given:
        return given
    return mimetypes.guess_type(upload.filename or "")[0] or "application/octet-stream"


def _filename(upload: UploadFile, mime_type: str) -> str:
    return files.named(upload.filename or "") or "unnamed" + (
        mimetypes.guess_extension(mime_type.partition(";")[0]) or ""
    )


async def _chunks(upload: UploadFile) -> AsyncIterator[bytes]:
    while chunk := await upload.read(CHUNK_BYTES):
        yield chunk


async def _content(exchange: Exchange, record: FileRecord) -> AsyncIterator[bytes]:
    for ordinal in range(-(-record.size_bytes // CHUNK_BYTES)):
        async with exchange.transaction() as connection:
            chunk = await files.chunk(connection, record.id, ordinal)
        yield chunk


def _wire(record: FileRecord) -> FileMetadata:
    return FileMetadata(
        id=record.id,
        filename=record.filename,
        mime_type=record.mime_type,
        size_bytes=record.size_bytes,
        created_at=record.created_at,
        scope=FileScope(id=record.scope_session_id) if record.scope_session_id else None,
    )
