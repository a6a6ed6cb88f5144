"""/v1/sessions/{id}/resources: the files that are mounted in a session's sandbox."""

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from controlplane.api.checks import not_supported, refused, require_unarchived
from controlplane.api.exchange import CurrentExchange, json_response, reads
from controlplane.api.pages import MAX_LIMIT, PageParam, SmallInteger, cut, decode
from controlplane.api.wire.common import Page
from controlplane.api.wire.sessions import (
    MAX_RESOURCES,
    FileMountRequest,
    FileResource,
    MountRequest,
    ResourceDeleted,
    ResourceUpdate,
    UnsupportedMount,
)
from controlplane.errors import NotFoundError
from controlplane.ids import shown_id
from controlplane.store import files, resources, sessions
from controlplane.store.pool import Connection
from controlplane.store.positions import Position
from controlplane.store.resources import FileMount, ResourceRecord

router = APIRouter(prefix="/v1/sessions/{session_id}/resources", tags=["sessions"])

_UPLOADS = "/mnt/session/uploads"


@router.post("", response_model=FileResource)
async def add_resource(
    exchange: CurrentExchange, session_id: str, wanted: FileMountRequest = reads(FileMountRequest)
) -> Response:
    """Mount a file. It is there from the next sandbox on; one that is up does not see it."""

    async def effect(connection: Connection) -> FileResource:
        session = await sessions.lock(connection, session_id)
        require_unarchived("session", session_id, session.archived_at)
        if len(session.resources) >= MAX_RESOURCES:
            raise refused("resources", f"at most {MAX_RESOURCES} resources")
        taken = [resource.config.mount_path for resource in session.resources]
        [mount] = await mounts_of(connection, [wanted], taken=taken, field="")
        return wire_resource(
            await resources.add(connection, exchange.workspace_id, session_id=session_id, mount=mount)
        )

    return await exchange.once(effect)


@router.get("", response_model=Page[FileResource])
async def list_resources(
    exchange: CurrentExchange,
    session_id: str,
    limit: Annotated[
        int | None, SmallInteger, Query(ge=1, le=MAX_LIMIT, description="How many at most; all if omitted.")
    ] = None,
    page: PageParam = None,
) -> Response:
    """List what is mounted, in the order in which it was added."""
    beyond = decode(page, "resources").position()
    async with exchange.transaction() as connection:
        await sessions.last_seq(connection, session_id)
        found = await resources.listing(
            connection, session_id, beyond=beyond, limit=limit + 1 if limit is not None else None
        )
    shown, following = cut(
        found, limit or len(found), "resources", lambda r: Position(created_at=r.created_at, id=r.id)
    )
    return json_response(Page[FileResource](data=[wire_resource(r) for r in shown], next_page=following))


@router.get("/{resource_id}", response_model=FileResource)
async def get_resource(exchange: CurrentExchange, session_id: str, resource_id: str) -> Response:
    """Get one resource."""
    async with exchange.transaction() as connection:
        return json_response(wire_resource(await resources.get(connection, session_id, resource_id)))


@router.post("/{resource_id}", response_model=FileResource)
async def update_resource(
    exchange: CurrentExchange, session_id: str, resource_id: str, wanted: ResourceUpdate = reads(ResourceUpdate)
) -> Response:
    """Rotate the token of a repository. Files have none, and there are no repositories in this version."""
    async with exchange.transaction() as connection:
        await resources.get(connection, session_id, resource_id)
    raise refused(
        "authorization_token",
        "a file has no token" if wanted.authorization_token else "must not be empty",
        code="not_supported",
        next_step="delete the resource and add another one",
    )


@router.delete("/{resource_id}", response_model=ResourceDeleted)
async def delete_resource(exchange: CurrentExchange, session_id: str, resource_id: str) -> Response:
    """Take a resource from a session; a sandbox that is up keeps its copy."""
    async with exchange.transaction() as connection:
        session = await sessions.lock(connection, session_id)
        require_unarchived("session", session_id, session.archived_at)
        await resources.delete(connection, session_id, resource_id)
    return json_response(ResourceDeleted(id=resource_id))


async def mounts_of(
    connection: Connection, wanted: Sequence[MountRequest], *, taken: list[str], field: str = "resources"
) -> list[FileMount]:
    """Return what is to be mounted where; raises if a file is not there or a path is ``taken``."""
    mounts: list[FileMount] = []
    for index, request in enumerate(wanted):
        at = f"{field}.{index}." if field else ""
        if isinstance(request, UnsupportedMount):
            raise not_supported(f"{at}type", f"resources of type {request.type} are", next_step="mount files instead")
        path = request.mount_path or f"{_UPLOADS}/{request.file_id}"
        if path in taken or any(path == mount.mount_path for mount in mounts):
            raise refused(
                f"{at}mount_path",
                "another file has this path",
                code="mount_path_taken",
                next_step="choose another path",
            )
        mounts.append(FileMount(file_id=request.file_id, mount_path=path))
    await _require_files(connection, mounts, field)
    return mounts


async def _require_files(connection: Connection, mounts: list[FileMount], field: str) -> None:
    missing = await files.missing(connection, [mount.file_id for mount in mounts]) if mounts else []
    if missing:
        index = next(index for index, mount in enumerate(mounts) if mount.file_id == missing[0])
        raise NotFoundError(
            f"no file {shown_id(missing[0])!r}",
            code="file_not_found",
            field=f"{field}.{index}.file_id" if field else "file_id",
            next_step="upload the file to /v1/files first",
        )


def wire_resource(record: ResourceRecord) -> FileResource:
    """Return a resource as clients see it."""
    return FileResource(
        id=record.id,
        file_id=record.config.file_id,
        mount_path=record.config.mount_path,
        created_at=record.created_at,
        updated_at=record.updated_at,
    )
