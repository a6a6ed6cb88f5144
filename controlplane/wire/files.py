"""Files on the wire."""

from datetime import datetime
from typing import Literal

from controlplane.wire.common import Answer


class FileScope(Answer):
    """What a file belongs to."""

    type: Literal["session"] = "session"
    id: str


class FileMetadata(Answer):
    """A file without its content."""

    type: Literal["file"] = "file"
    id: str
    filename: str
    mime_type: str
    size_bytes: int
    created_at: datetime
    downloadable: bool = True
    scope: FileScope | None = None


class FileDeleted(Answer):
    """The file is gone."""

    type: Literal["file_deleted"] = "file_deleted"
    id: str
