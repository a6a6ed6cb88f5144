"""/v1/sessions: durable sessions of an agent in an environment."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query
from starlette.responses import Response

from controlplane.api.exchange import CurrentExchange, json_response, reads
from controlplane.api.pages import (
    DEFAULT_LIMIT,
    Cursor,
    LimitParam,
    PageParam,
    SmallInteger,
    Times,
    decode,
    encode,
    times,
)
from controlplane.api.resources import wire_resource
from controlplane.checks import refused, require_unarchived
from controlplane.errors import ConflictError
from controlplane.sessions import changes
from controlplane.sessions.inputs import check_inputs
from controlplane.sessions.opening import open_session
from controlplane.store import budgets, events, resuming, sessions
from controlplane.store.events import Event, NewEvent
from controlplane.store.pool import Connection
from controlplane.store.positions import Position
from controlplane.store.sessions import SessionFilter, SessionRecord, SessionStatus
from controlplane.wire.common import Version
from controlplane.wire.sessions import (
    Session,
    SessionCreate,
    SessionDeleted,
    SessionPage,
    SessionStats,
    SessionUpdate,
)

router = APIRouter(prefix="/v1/sessions", tags=["sessions"])


@router.post("", response_model=Session)
async def create_session(exchange: CurrentExchange, wanted: SessionCreate = reads(SessionCreate)) -> Response:
    """Open a session, mount its files, and queue its initial events: all of it or nothing."""
    vault_ids = wanted.vault_ids or []
    if len(set(vault_ids)) < len(vault_ids):
        raise refused("vault_ids", "a vault appears more than once")
    check_inputs(wanted.initial_events or [], "initial_events")
    inputs: list[Event] = []

    async def effect(connection: Connection) -> Session:
        session_id, queued = await open_session(
            connection, exchange.workspace_id, wanted, wanted.initial_events or [], by=exchange.key_id
        )
        inputs.extend(queued)
        return wire_session(await sessions.get(connection, session_id))

    response = await exchange.once(effect)
    if inputs:
        exchange.parts.submitter.submitted(exchange.workspace_id, inputs[0].session_id, inputs)
    return response


@router.get("", response_model=SessionPage)
async def list_sessions(
    exchange: CurrentExchange,
    window: Annotated[Times, Depends(times)],
    statuses: Annotated[list[SessionStatus] | None, Query(description="Any of these.")] = None,
    statuses_bracketed: Annotated[list[SessionStatus] | None, Query(alias="statuses[]")] = None,
    agent_id: Annotated[str | None, Query(max_length=128)] = None,
    agent_version: Annotated[Version | None, SmallInteger, Query(description="Only with agent_id.")] = None,
    deployment_id: Annotated[str | None, Query(max_length=128)] = None,
    memory_store_id: Annotated[
        str | None, Query(max_length=128, description="Only sessions that it is attached to.")
    ] = None,
    failed: Annotated[bool | None, Query(description="Only sessions whose last turn failed, or did not.")] = None,
    include_archived: bool = False,
    order: Annotated[str, Query(pattern="^(asc|desc)$", description="By time of creation.")] = "desc",
    limit: LimitParam = DEFAULT_LIMIT,
    page: PageParam = None,
) -> Response:
    """List sessions."""
    cursor = decode(page, f"sessions-{order}")
    narrowed = SessionFilter(
        agent_id=agent_id,
        agent_version=agent_version if agent_id is not None else None,
        statuses=[*(statuses or []), *(statuses_bracketed or [])] or None,
        deployment_id=deployment_id,
        failed=failed,
        memory_store_id=memory_store_id,
        include_archived=include_archived,
        created_at_gt=window.gt,
        created_at_gte=window.gte,
        created_at_lt=window.lt,
        created_at_lte=window.lte,
        order="asc" if order == "asc" else "desc",
        beyond=cursor.position(),
        backward=cursor.back,
    )
    async with exchange.transaction() as connection:
        found = await sessions.listing(connection, narrowed, limit=limit + 1)
    return json_response(_session_page(found, limit=limit, cursor=cursor))


@router.get("/{session_id}", response_model=Session)
async def get_session(exchange: CurrentExchange, session_id: str) -> Response:
    """Get a session."""
    async with exchange.transaction() as connection:
        return json_response(wire_session(await sessions.get(connection, session_id)))


@router.post("/{session_id}", response_model=Session)
async def update_session(
    exchange: CurrentExchange, session_id: str, wanted: SessionUpdate = reads(SessionUpdate)
) -> Response:
    """Change a session; the change applies from the next turn, and is an event.

    One that rests because its budget was spent goes on when that is raised.
    """
    woken: list[str] = []

    async def effect(connection: Connection) -> Session:
        before = await sessions.lock(connection, session_id)
        require_unarchived("session", session_id, before.archived_at)
        await budgets.check_usable(connection, wanted.budget_ids)
        after = before.model_copy(update=changes.wanted_changes(before, wanted, exchange.parts.harnesses))
        changed = changes.changed_fields(before, after)
        if changed is not None:
            await sessions.replace(connection, session_id, after)
            await events.append(connection, session_id, [NewEvent(type="session.updated", payload=changed)])
        if changes.may_go_on(before, after):
            await resuming.want(connection, session_id)
            woken.append(session_id)
        return wire_session(await sessions.get(connection, session_id))

    response = await exchange.once(effect)
    for each in woken:
        exchange.parts.submitter.submitted(exchange.workspace_id, each, [])
    return response


@router.delete("/{session_id}", response_model=SessionDeleted)
async def delete_session(exchange: CurrentExchange, session_id: str) -> Response:
    """Delete a session with its events for good. One that is running must be interrupted first."""
    async with exchange.transaction() as connection:
        session = await sessions.lock(connection, session_id)
        changes.require_rest(session)
        await sessions.delete(connection, exchange.workspace_id, session_id=session_id, seq=session.last_seq + 1)
    return json_response(SessionDeleted(id=session_id))


@router.post("/{session_id}/archive", response_model=Session)
async def archive_session(exchange: CurrentExchange, session_id: str) -> Response:
    """Make a session read-only. One that is running, or has messages to answer, must come to rest first."""

    async def effect(connection: Connection) -> Session:
        changes.require_rest(await sessions.lock(connection, session_id))
        if await sessions.has_inputs(connection, session_id):
            raise ConflictError(
                f"session {session_id!r} has messages that no turn has taken yet",
                code="session_running",
                field="session_id",
                next_step="wait until they are answered, or delete the session",
            )
        await sessions.archive(connection, session_id)
        return wire_session(await sessions.get(connection, session_id))

    return await exchange.once(effect)


def wire_session(record: SessionRecord) -> Session:
    """Return a session as clients see it."""
    active_seconds = record.active_ms / 1000
    return Session(
        **{
            name: value
            for name, value in record
            if name in Session.model_fields and name not in ("resources", "usage")
        },
        resources=[wire_resource(resource) for resource in record.resources],
        usage={"active_seconds": active_seconds, **record.usage},
        stats=SessionStats(active_seconds=active_seconds, duration_seconds=max(0.0, record.age_seconds)),
    )


def _session_page(found: list[SessionRecord], *, limit: int, cursor: Cursor) -> SessionPage:
    more = len(found) > limit
    shown = found[:limit]
    if cursor.back:
        shown.reverse()
    has_next = bool(shown) and (more or cursor.back)
    has_previous = bool(shown) and ((more and cursor.back) or (not cursor.back and cursor.id is not None))
    return SessionPage(
        data=[wire_session(record) for record in shown],
        next_page=_page_after(shown[-1], cursor, back=False) if has_next else None,
        prev_page=_page_after(shown[0], cursor, back=True) if has_previous else None,
    )


def _page_after(record: SessionRecord, cursor: Cursor, *, back: bool) -> str:
    position = Position(created_at=record.created_at, id=record.id)
    return encode(Cursor(of=cursor.of, at=position.created_at, id=position.id, back=back))
