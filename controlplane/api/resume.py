"""/v1/sessions/resume and /v1/sessions/{id}/resume: another try at turns that failed."""

from datetime import UTC, datetime, timedelta

from fastapi import APIRouter
from starlette.responses import Response

from controlplane.api.exchange import CurrentExchange, Exchange, reads
from controlplane.api.sessions import wire_session
from controlplane.errors import ConflictError
from controlplane.sessions import changes
from controlplane.store import events, resuming, sessions
from controlplane.store.events import NewEvent
from controlplane.store.pool import Connection
from controlplane.store.resuming import FailedFilter
from controlplane.store.sessions import SessionRecord
from controlplane.wire.sessions import (
    MoveSettings,
    ResumedSession,
    Session,
    SessionResume,
    SessionsResume,
    SessionsResumed,
)

router = APIRouter(prefix="/v1/sessions", tags=["sessions"])

_RESUMABLE = frozenset({"retries_exhausted", "budget_reached"})


@router.post("/resume", response_model=SessionsResumed)
async def resume_sessions(
    exchange: CurrentExchange, wanted: SessionsResume = reads(SessionsResume, optional=True)
) -> Response:
    """Try the failed turns of many sessions again, the longest failed first, at a bounded rate."""
    narrowed = FailedFilter(
        agent_id=wanted.agent_id,
        statuses=list(wanted.statuses),
        causes=list(wanted.causes) if wanted.causes else None,
        failed_after=wanted.failed_after,
        failed_before=wanted.failed_before,
    )

    async def effect(connection: Connection) -> SessionsResumed:
        found = await resuming.failed(connection, narrowed, limit=wanted.limit + 1)
        now, shown = datetime.now(UTC), list[ResumedSession]()
        for place, session_id in enumerate(found[: wanted.limit]):
            wait_seconds = place / wanted.rate_per_second
            shown.append(ResumedSession(session_id=session_id, resume_at=now + timedelta(seconds=wait_seconds)))
            if wanted.dry_run:
                continue
            if wanted.model_fields_set & MoveSettings.model_fields.keys():
                await _change(exchange, connection, await sessions.get(connection, session_id), wanted)
            await resuming.want(connection, session_id, after_seconds=wait_seconds)
        return SessionsResumed(dry_run=wanted.dry_run, data=shown, has_more=len(found) > wanted.limit)

    return await exchange.once(effect)


@router.post("/{session_id}/resume", response_model=Session)
async def resume_session(
    exchange: CurrentExchange, session_id: str, wanted: SessionResume = reads(SessionResume, optional=True)
) -> Response:
    """Go on from the last step of a failed turn that is recorded; nothing that was done is done again."""

    async def effect(connection: Connection) -> Session:
        session = await sessions.lock(connection, session_id)
        _check_resumable(session)
        await _change(exchange, connection, session, wanted)
        await resuming.want(connection, session_id)
        return wire_session(await sessions.get(connection, session_id))

    response = await exchange.once(effect)
    exchange.parts.submitter.submitted(exchange.workspace_id, session_id, [])
    return response


def _check_resumable(session: SessionRecord) -> None:
    if session.archived_at is not None:
        raise ConflictError(
            f"session {session.id!r} is archived",
            code="session_archived",
            next_step="create a new session; an archived one is read-only",
        )
    if session.status != "idle" or (session.stop_reason or {}).get("type") not in _RESUMABLE:
        raise ConflictError(
            f"session {session.id!r} is {session.status} and has no failed turn to resume",
            code="nothing_to_resume",
            next_step="send a user.message to go on",
        )


async def _change(exchange: Exchange, connection: Connection, session: SessionRecord, wanted: MoveSettings) -> None:
    after = session.model_copy(update={"agent": changes.moved_agent(session.agent, wanted, exchange.parts.harnesses)})
    if isinstance(wanted, SessionResume) and "budget" in wanted.model_fields_set:
        after = after.model_copy(update={"budget": changes.new_budget(session, wanted.budget)})
    changed = changes.changed_fields(session, after)
    if changed is not None:
        await sessions.replace(connection, session.id, after)
        await events.append(connection, session.id, [NewEvent(type="session.updated", payload=changed)])
