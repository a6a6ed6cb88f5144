"""/v1/sessions/{id}/explanation: why a session stands where it stands."""

from fastapi import APIRouter
from starlette.responses import Response

from controlplane.api.exchange import CurrentExchange, json_response
from controlplane.explanation import explain
from controlplane.store import standing
from controlplane.wire.sessions import SessionExplanation

router = APIRouter(prefix="/v1/sessions/{session_id}/explanation", tags=["sessions"])


@router.get("", response_model=SessionExplanation)
async def explain_session(exchange: CurrentExchange, session_id: str) -> Response:
    """Say in five sentences where a session stands, why, what runs, what waits, and what to do."""
    async with exchange.transaction() as connection:
        found = await standing.of_session(connection, session_id)
    return json_response(SessionExplanation(session_id=session_id, **explain(found).model_dump()))
