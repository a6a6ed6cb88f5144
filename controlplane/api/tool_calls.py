"""/v1/sessions/{id}/tool_calls: the side-effect journal of a session."""

from fastapi import APIRouter
from starlette.responses import Response

from controlplane.api.exchange import CurrentExchange, json_response
from controlplane.api.pages import DEFAULT_LIMIT, LimitParam, PageParam, cut, decode
from controlplane.store import calls, sessions
from controlplane.store.calls import CallRecord
from controlplane.store.positions import Position
from controlplane.wire.common import Page
from controlplane.wire.tool_calls import ToolCall
from harness_adapters import toolset

router = APIRouter(prefix="/v1/sessions/{session_id}/tool_calls", tags=["sessions"])


@router.get("", response_model=Page[ToolCall])
async def list_tool_calls(
    exchange: CurrentExchange, session_id: str, limit: LimitParam = DEFAULT_LIMIT, page: PageParam = None
) -> Response:
    """List what the session's agent wanted done, in order, and what came of it."""
    cursor = decode(page, "tool_calls")
    async with exchange.transaction() as connection:
        await sessions.last_seq(connection, session_id)
        found = await calls.listing(connection, session_id, beyond=cursor.position(), limit=limit + 1)
    shown, following = cut(found, limit, "tool_calls", lambda each: Position(created_at=each.intended_at, id=each.id))
    data = [_shown(each) for each in shown]
    return json_response(Page[ToolCall](data=data, next_page=following))


def _shown(call: CallRecord) -> ToolCall:
    ran_with = call.input if call.edited_input is None else call.edited_input
    is_ours = call.verdict != "client"
    exec_id = toolset.exec_id(call.name, ran_with, call.id) if is_ours else None
    return ToolCall(**call.model_dump(), exec_id=exec_id)
