"""/v1/sessions/{id}/resume: another try at the turn that failed."""

from fastapi import APIRouter
from starlette.responses import Response

from controlplane.api.exchange import CurrentExchange
from controlplane.api.sessions import wire_session
from controlplane.api.wire.sessions import Session
from controlplane.errors import ConflictError
from controlplane.store import sessions
from controlplane.store.pool import Connection

router = APIRouter(prefix="/v1/sessions", tags=["sessions"])


@router.post("/{session_id}/resume", response_model=Session)
async def resume_session(exchange: CurrentExchange, session_id: str) -> Response:
    """Go on from the last step of a failed turn that is recorded; nothing that was done is done again."""

    async def effect(connection: Connection) -> Session:
        session = await sessions.lock(connection, session_id)
        if session.archived_at is not None:
            raise ConflictError(
                f"session {session_id!r} is archived",
                code="session_archived",
                next_step="create a new session; an archived one is read-only",
            )
        if session.status != "idle" or (session.stop_reason or {}).get("type") != "retries_exhausted":
            raise ConflictError(
                f"session {session_id!r} is {session.status} and has no failed turn to resume",
                code="nothing_to_resume",
                next_step="send a user.message to go on",
            )
        await sessions.want_resumed(connection, session_id)
        return wire_session(session)

    response = await exchange.once(effect)
    exchange.parts.submitter.submitted(exchange.workspace_id, session_id, [])
    return response
