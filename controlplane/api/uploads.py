"""Multipart uploads: parsed as they arrive, on disk beyond a megabyte, refused beyond the limit."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from controlplane.api.bodies import too_large
from controlplane.checks import not_supported, refused

MAX_FILE_BYTES = 500 * 1024 * 1024
"""The wire format's limit for one file."""

_OVERHEAD_BYTES = 64 * 1024
"""Headers and boundaries of the form's parts."""

_MAX_FIELD_BYTES = 1024


class _Parser(MultiPartParser):
    """Remembers every file that it opened, also those of a form that was cut off in the middle of one."""

    def __init__(self, request: Request):
        super().__init__(
            request.headers, _limited(request), max_files=1, max_fields=4, max_part_size=_MAX_FIELD_BYTES
        )
        self.opened: list[UploadFile] = []

    def on_headers_finished(self) -> None:
        """Open the part's file, if it is one."""
        super().on_headers_finished()
        if self._current_part.file is not None:
            self.opened.append(self._current_part.file)


@asynccontextmanager
async def uploaded_file(request: Request) -> AsyncGenerator[UploadFile]:
    """Yield the form's part ``file``, which may be on disk; it is gone when the context ends."""
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise refused(
            "Content-Type",
            "an upload is multipart/form-data",
            code="unsupported_media_type",
            next_step="send the file as the part 'file' of a form",
        )
    parser = _Parser(request)
    try:
        form = await _parsed(parser)
        if "expires_in_seconds" in form:
            raise not_supported("expires_in_seconds", "files that expire are", next_step="delete the file yourself")
        upload = form.get("file")
        if not isinstance(upload, UploadFile):
            raise refused("file", "the form has no file", next_step="send the file as the part 'file' of the form")
        if upload.size is not None and upload.size > MAX_FILE_BYTES:
            raise too_large(MAX_FILE_BYTES)
        yield upload
    finally:
        for file in parser.opened:
            await file.close()


async def _parsed(parser: _Parser) -> FormData:
    try:
        return await parser.parse()
    except (MultiPartException, UnicodeDecodeError, ValueError) as error:
        raise refused("body", f"not a form that can be read: {error}", code="malformed_form") from error


async def _limited(request: Request) -> AsyncGenerator[bytes]:
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > MAX_FILE_BYTES + _OVERHEAD_BYTES:
            raise too_large(MAX_FILE_BYTES)
        yield chunk
