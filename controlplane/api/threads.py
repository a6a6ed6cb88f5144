"""/v1/sessions/{id}/threads: the one thread that a session of this version has."""

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from controlplane.api.exchange import CurrentExchange, json_response
from controlplane.api.pages import LimitParam, PageParam, decode
from controlplane.api.sessions import wire_session
from controlplane.definitions import SessionAgentBase
from controlplane.errors import NotFoundError
from controlplane.ids import shown_id
from controlplane.store import sessions
from controlplane.store.sessions import SessionRecord, SessionStatus
from controlplane.wire.common import Page
from controlplane.wire.sessions import SessionThread

router = APIRouter(prefix="/v1/sessions/{session_id}/threads", tags=["sessions"])

_DEFAULT_LIMIT = 1000


def primary_thread_id(session_id: str) -> str:
    """The id of the thread that every session has; it follows from the session's."""
    return "sthr_" + session_id.removeprefix("sesn_")


@router.get("", response_model=Page[SessionThread])
async def list_threads(
    exchange: CurrentExchange,
    session_id: str,
    statuses: Annotated[list[SessionStatus] | None, Query(description="Any of these.")] = None,
    statuses_bracketed: Annotated[list[SessionStatus] | None, Query(alias="statuses[]")] = None,
    limit: LimitParam = _DEFAULT_LIMIT,
    page: PageParam = None,
) -> Response:
    """List the threads of a session: there is one."""
    decode(page, "threads")
    wanted = [*(statuses or []), *(statuses_bracketed or [])]
    async with exchange.transaction() as connection:
        session = await sessions.get(connection, session_id)
    shown = [session] if limit and (not wanted or session.status in wanted) else []
    return json_response(Page[SessionThread](data=[_wire(record) for record in shown]))


@router.get("/{thread_id}", response_model=SessionThread)
async def get_thread(exchange: CurrentExchange, session_id: str, thread_id: str) -> Response:
    """Get a thread of a session."""
    async with exchange.transaction() as connection:
        session = await sessions.get(connection, session_id)
    if thread_id != primary_thread_id(session_id):
        raise NotFoundError(
            f"session {shown_id(session_id)!r} has no thread {shown_id(thread_id)!r}",
            code="thread_not_found",
            field="thread_id",
            next_step="list the session's threads",
        )
    return json_response(_wire(session))


def _wire(session: SessionRecord) -> SessionThread:
    shown = wire_session(session)
    began = session.last_seq > 0
    return SessionThread(
        id=primary_thread_id(session.id),
        session_id=session.id,
        agent=SessionAgentBase(**{name: value for name, value in session.agent if name != "multiagent"}),
        status=session.status,
        stats=shown.stats if began else None,
        usage=shown.usage if began else None,
        created_at=session.created_at,
        updated_at=session.updated_at,
        archived_at=session.archived_at,
    )
