"""/v1/sessions/{id}/resources: the files and the memory stores of a session."""

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from controlplane.api.exchange import CurrentExchange, json_response, reads
from controlplane.api.pages import MAX_LIMIT, PageParam, SmallInteger, cut, decode
from controlplane.checks import refused, require_unarchived
from controlplane.sessions.mounts import mounts_of
from controlplane.store import resources, sessions
from controlplane.store.memory_attached import Owners
from controlplane.store.pool import Connection
from controlplane.store.positions import Position
from controlplane.store.resources import ResourceRecord, StoreMount
from controlplane.wire.common import Page
from controlplane.wire.sessions import (
    MAX_RESOURCES,
    AddedMount,
    FileResource,
    ResourceAnswer,
    ResourceDeleted,
    ResourceUpdate,
    StoreResource,
)

router = APIRouter(prefix="/v1/sessions/{session_id}/resources", tags=["sessions"])


@router.post("", response_model=ResourceAnswer)
async def add_resource(
    exchange: CurrentExchange, session_id: str, wanted: AddedMount = reads(AddedMount)
) -> Response:
    """Mount a file, there from the next sandbox on, or attach a memory store, there from the next turn on."""

    async def effect(connection: Connection) -> ResourceAnswer:
        session = await sessions.lock(connection, session_id)
        require_unarchived("session", session_id, session.archived_at)
        if len(session.resources) >= MAX_RESOURCES:
            raise refused("resources", f"at most {MAX_RESOURCES} resources")
        taken = [resource.config.mount_path for resource in session.resources]
        owners = Owners(session_id=session_id, agent_id=session.agent.id, user_id=session.user_id)
        attached = [r.config.memory_store_id for r in session.resources if isinstance(r.config, StoreMount)]
        [mount] = await mounts_of(connection, [wanted.root], owners, taken=taken, attached=attached, field="")
        added = await resources.add(connection, exchange.workspace_id, session_id=session_id, mount=mount)
        return ResourceAnswer(wire_resource(added))

    return await exchange.once(effect)


@router.get("", response_model=Page[ResourceAnswer])
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
    data = [ResourceAnswer(wire_resource(record)) for record in shown]
    return json_response(Page[ResourceAnswer](data=data, next_page=following))


@router.get("/{resource_id}", response_model=ResourceAnswer)
async def get_resource(exchange: CurrentExchange, session_id: str, resource_id: str) -> Response:
    """Get one resource."""
    async with exchange.transaction() as connection:
        return json_response(wire_resource(await resources.get(connection, session_id, resource_id)))


@router.post("/{resource_id}", response_model=ResourceAnswer)
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


def wire_resource(record: ResourceRecord) -> FileResource | StoreResource:
    """Return a resource as clients see it."""
    if isinstance(record.config, StoreMount):
        return StoreResource(
            id=record.id, created_at=record.created_at, updated_at=record.updated_at, **record.config.model_dump()
        )
    return FileResource(
        id=record.id,
        file_id=record.config.file_id,
        mount_path=record.config.mount_path,
        created_at=record.created_at,
        updated_at=record.updated_at,
    )
