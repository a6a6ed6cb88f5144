"""/v1/approvals: tool calls that wait for a person, and the decision."""

from fastapi import APIRouter
from starlette.responses import Response

from controlplane.api.events import sent
from controlplane.api.exchange import CurrentExchange, json_response, reads
from controlplane.api.pages import DEFAULT_LIMIT, LimitParam, PageParam, cut, decode
from controlplane.errors import ConflictError, NotFoundError
from controlplane.ids import shown_id
from controlplane.store import approvals, events, sessions
from controlplane.store.approvals import CallDecision
from controlplane.store.events import Event
from controlplane.store.pool import Connection
from controlplane.store.positions import Position
from controlplane.wire.common import Page
from controlplane.wire.events import SentEvents
from controlplane.wire.tool_calls import Approval, ApprovalDecision

router = APIRouter(prefix="/v1/approvals", tags=["approvals"])


@router.get("", response_model=Page[Approval])
async def list_approvals(
    exchange: CurrentExchange, limit: LimitParam = DEFAULT_LIMIT, page: PageParam = None
) -> Response:
    """List the tool calls of all sessions that wait for a person, the oldest first."""
    cursor = decode(page, "approvals")
    async with exchange.transaction() as connection:
        found = await approvals.waiting(connection, beyond=cursor.position(), limit=limit + 1)
    shown, following = cut(found, limit, "approvals", lambda each: Position(created_at=each.asked_at, id=each.id))
    data = [Approval(**each.model_dump()) for each in shown]
    return json_response(Page[Approval](data=data, next_page=following))


@router.post("/{tool_use_id}", response_model=SentEvents)
async def decide_approval(
    exchange: CurrentExchange, tool_use_id: str, wanted: ApprovalDecision = reads(ApprovalDecision)
) -> Response:
    """Decide on a call, once; the answer is the `user.tool_confirmation` that its session gets.

    With `input` it runs with other arguments, which its tool must take and no rule may deny. With `remember` a rule
    is made, whose author is the caller.
    """
    exchange.require_decider("decide about tool calls")
    async with exchange.transaction() as connection:
        session_id = await approvals.session_of(connection, tool_use_id)
    if session_id is None:
        raise NotFoundError(
            f"no tool call {shown_id(tool_use_id)!r}",
            code="tool_use_not_found",
            field="tool_use_id",
            next_step="list what waits with GET /v1/approvals",
        )
    decision = CallDecision(
        tool_use_id=tool_use_id,
        kind=wanted.result,
        by=f"{exchange.key_id} for {wanted.on_behalf_of}" if wanted.on_behalf_of else exchange.key_id,
        deny_message=wanted.deny_message,
        edited_input=wanted.input,
        remember=wanted.remember is not None,
    )
    recorded: list[Event] = []

    async def effect(connection: Connection) -> SentEvents:
        await _check_waits(connection, session_id)
        await approvals.decide(connection, session_id, decision, field="tool_use_id")
        recorded.extend(await events.append(connection, session_id, [decision.confirmation()]))
        return sent(recorded)

    response = await exchange.once(effect, session_id=session_id)
    if recorded:
        exchange.parts.submitter.submitted(exchange.workspace_id, session_id, recorded)
    return response


async def _check_waits(connection: Connection, session_id: str) -> None:
    """Refuse a decision on a call of a session that goes on no more, and hold the session."""
    gate = await sessions.gate(connection, session_id)
    if gate.archived_at is not None or gate.status == "terminated":
        ended = "is archived" if gate.archived_at is not None else "has ended"
        raise ConflictError(
            f"the call waits for nobody: its session {session_id!r} {ended}",
            code="tool_use_not_waiting",
            field="tool_use_id",
            next_step="list what waits with GET /v1/approvals",
        )
