"""Memory stores, memories and their versions on the wire."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, Field, RootModel, field_validator

from controlplane.memory.blocks import is_type
from controlplane.store.memory_search import MAX_HITS, MAX_QUERY_CHARACTERS
from controlplane.wire.common import Answer, Metadata, MetadataPatch, Reference, Request, Version

MAX_IMPORTED = 500
"""Memories in one request of an import: a transaction of a second or two."""

View = Literal["basic", "full"]
Moment = Annotated[AwareDatetime, Field(strict=False)]
Name = Annotated[str, Field(min_length=1, max_length=255)]
Description = Annotated[str, Field(max_length=1024)]
Path = Annotated[str, Field(min_length=1, max_length=1024)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Quota = Annotated[int, Field(ge=1, le=2**31 - 1)]
ByteQuota = Annotated[int, Field(ge=1, le=2**53)]
SizeLimit = Annotated[int, Field(ge=1, le=102_400)]


def _visible(name: str | None) -> str | None:
    if name is not None and not name.isprintable():
        raise ValueError("a name has no control characters")
    return name


def _type(name: str | None) -> str | None:
    if name is not None and not is_type(name):
        raise ValueError("a type has small letters, digits and '_' in it, a letter first, 64 at most")
    return name


class OwnerRequest(Request):
    """Whose sessions may attach the store; ``id``: of the agent or the session, or the `user_id` of sessions."""

    type: Literal["agent", "user", "session", "shared"]
    id: Annotated[str, Field(min_length=1, max_length=256)] | None = None


class MemoryStoreCreate(Request):
    """A new memory store. All behind `metadata` is ours."""

    name: Name
    description: Description = ""
    metadata: Metadata | None = None
    owner: OwnerRequest = OwnerRequest(type="shared")
    access: Literal["read_write", "read_only"] = "read_write"
    max_memories: Quota = 100_000
    max_bytes: ByteQuota = 1 << 30

    _check_name = field_validator("name")(_visible)


class MemoryStoreUpdate(Request):
    """What changes of a store; an omitted field keeps its value."""

    name: Name | None = None
    description: Description | None = None
    metadata: MetadataPatch | None = None
    access: Literal["read_write", "read_only"] | None = None
    max_memories: Quota | None = None
    max_bytes: ByteQuota | None = None

    _check_name = field_validator("name")(_visible)


class Owner(Answer):
    """Whose sessions may attach a store."""

    type: Literal["agent", "user", "session", "shared"]
    id: str | None


class MemoryStore(Answer):
    """A memory store."""

    type: Literal["memory_store"] = "memory_store"
    id: str
    name: str
    description: str
    metadata: dict[str, str]
    created_at: datetime
    updated_at: datetime
    archived_at: datetime | None
    owner: Owner
    access: Literal["read_write", "read_only"]
    max_memories: int
    max_bytes: int
    memory_count: int
    memory_bytes: int


class MemoryStoreDeleted(Answer):
    """The store is gone."""

    type: Literal["memory_store_deleted"] = "memory_store_deleted"
    id: str


class MemoryCreate(Request):
    """A new memory. All behind `content` is ours; `memory_type` makes it a block."""

    path: Path
    content: str | None
    memory_type: str | None = None
    json_schema: dict[str, Any] | None = None
    size_limit: SizeLimit | None = Field(default=None, description="Characters; by its type if omitted.")
    protected: bool = False
    supersedes: Path | None = Field(default=None, description="The path of a memory that holds no longer.")
    expires_at: Moment | None = None
    created_at: Moment | None = Field(default=None, description="Since when it holds, if not since now.")
    untrusted: bool = Field(default=False, description="It came from where nobody vouches for it.")

    _check_type = field_validator("memory_type")(_type)


class Precondition(Request):
    """What the memory must hold for the update to apply."""

    type: Literal["content_sha256"]
    content_sha256: Sha256


class MemoryUpdate(Request):
    """What changes of a memory; an omitted field keeps its value. All behind `precondition` is ours."""

    content: str | None = None
    path: Path | None = None
    precondition: Precondition | None = None
    version: Version | None = Field(default=None, description="As a precondition: the version that it has.")
    patch: dict[str, Any] | None = Field(default=None, description="A JSON Merge Patch, instead of `content`.")
    memory_type: str | None = None
    json_schema: dict[str, Any] | None = None
    size_limit: SizeLimit | None = None
    protected: bool | None = None
    supersedes: Path | None = None
    expires_at: Moment | None = None
    untrusted: bool | None = Field(
        default=None, description="False vouches for it. Omitted: new content is trusted, the rest is as it was."
    )

    _check_type = field_validator("memory_type")(_type)


class Memory(Answer):
    """A memory. All behind `content` is ours."""

    type: Literal["memory"] = "memory"
    id: str
    memory_store_id: str
    memory_version_id: str
    path: str
    content_sha256: str
    content_size_bytes: int
    created_at: datetime
    updated_at: datetime
    content: str | None
    version: int
    memory_type: str | None
    json_schema: dict[str, Any] | None = None
    size_limit: int | None = None
    protected: bool = False
    untrusted: bool
    supersedes: str | None
    expires_at: datetime | None = None
    redacted: list[str] = Field(
        default_factory=list[str], description="Of what was just saved: the kinds of secrets that were taken out."
    )


class MemoryPrefix(Answer):
    """What stands for the memories below a path."""

    type: Literal["memory_prefix"] = "memory_prefix"
    path: str


class MemoryItem(RootModel[Annotated[Memory | MemoryPrefix, Field(discriminator="type")]]):
    """A memory, or what stands for several."""


class MemoryDeleted(Answer):
    """The memory is gone; its versions are not."""

    type: Literal["memory_deleted"] = "memory_deleted"
    id: str


class MemoryVersion(Answer):
    """A version of a memory. All behind `redacted_by` is ours."""

    type: Literal["memory_version"] = "memory_version"
    id: str
    memory_id: str
    memory_store_id: str
    operation: Literal["created", "modified", "deleted"]
    path: str | None
    content: str | None
    content_sha256: str | None
    content_size_bytes: int | None
    created_at: datetime
    created_by: dict[str, str] | None
    redacted_at: datetime | None
    redacted_by: dict[str, str] | None
    version: int
    memory_type: str | None
    json_schema: dict[str, Any] | None
    size_limit: int | None
    protected: bool
    untrusted: bool
    supersedes: str | None
    provenance: dict[str, str] = Field(description="Session, turn, tool call, model and user, where there were such.")
    held_from: datetime
    held_to: datetime | None


class SearchRequest(Request):
    """What to look for. ``author``: the id of a session, an API key or a user."""

    query: Annotated[str, Field(min_length=1, max_length=MAX_QUERY_CHARACTERS)]
    limit: Annotated[int, Field(ge=1, le=MAX_HITS)] = 10
    types: Annotated[list[str], Field(max_length=64)] | None = None
    path_prefix: Path | None = None
    as_of: Moment | None = None
    created_after: Moment | None = None
    created_before: Moment | None = None
    author: Reference | None = None


class SearchHit(Answer):
    """A memory that was found, how well it fits, and why."""

    memory: Memory
    score: float
    reason: str


class SearchResults(Answer):
    """What was found, the best first."""

    data: list[SearchHit]


class ImportedMemory(Request):
    """A line of an import; an omitted field leaves what is there as it is."""

    path: Path
    content: str
    type: str | None = None
    created_at: Moment | None = None
    supersedes: Path | None = None
    untrusted: bool | None = None
    size_limit: SizeLimit | None = None
    json_schema: dict[str, Any] | None = None
    protected: bool | None = None
    expires_at: Moment | None = None

    _check_type = field_validator("type")(_type)


class MemoryImport(Request):
    """Memories to be kept: what a path holds already as it is stays, what it holds otherwise gets a version."""

    memories: Annotated[list[ImportedMemory], Field(min_length=1, max_length=MAX_IMPORTED)]


class MemoriesImported(Answer):
    """What became of an import; ``redacted``: how many had secrets in them."""

    type: Literal["memories_imported"] = "memories_imported"
    created: int
    updated: int
    unchanged: int
    redacted: int
