"""/v1/sessions/{id}/egress: what the session's sandboxes sent out, and the switch that stops it."""

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from controlplane.api.exchange import CurrentExchange, json_response
from controlplane.api.pages import DEFAULT_LIMIT, Cursor, LimitParam, PageParam, decode, encode
from controlplane.store import decisions
from controlplane.store.decisions import Decision, EgressState
from controlplane.store.pool import Connection
from controlplane.wire.common import Page
from controlplane.wire.egress import EgressDecision, SessionEgress
from sandbox.egress.contract import Verdict

router = APIRouter(prefix="/v1/sessions/{session_id}/egress", tags=["egress"])


@router.get("", response_model=Page[EgressDecision])
async def list_egress(
    exchange: CurrentExchange,
    session_id: str,
    verdicts: Annotated[list[Verdict] | None, Query(description="Any of these.")] = None,
    verdicts_bracketed: Annotated[list[Verdict] | None, Query(alias="verdicts[]")] = None,
    limit: LimitParam = DEFAULT_LIMIT,
    page: PageParam = None,
) -> Response:
    """List the decisions of the egress proxy in order, also of a session that was deleted."""
    cursor = decode(page, "egress")
    async with exchange.transaction() as connection:
        found = await decisions.listing(
            connection,
            session_id,
            verdicts=[*(verdicts or []), *(verdicts_bracketed or [])] or None,
            beyond_seq=cursor.n,
            limit=limit + 1,
        )
    following = encode(Cursor(of="egress", n=found[limit - 1].seq)) if len(found) > limit else None
    return json_response(Page[EgressDecision](data=[_wire(each) for each in found[:limit]], next_page=following))


@router.post("/revoke", response_model=SessionEgress)
async def revoke_egress(exchange: CurrentExchange, session_id: str) -> Response:
    """Cut the session's sandboxes off from everything, open connections too, within a second."""

    async def effect(connection: Connection) -> SessionEgress:
        return _state(await decisions.set_revoked(connection, session_id, revoked=True))

    return await exchange.once(effect)


@router.post("/restore", response_model=SessionEgress)
async def restore_egress(exchange: CurrentExchange, session_id: str) -> Response:
    """Give the session's sandboxes back what their environment and vaults allow."""

    async def effect(connection: Connection) -> SessionEgress:
        return _state(await decisions.set_revoked(connection, session_id, revoked=False))

    return await exchange.once(effect)


def _wire(decision: Decision) -> EgressDecision:
    fields = decision.model_dump(exclude={"previous_hash", "hash"})
    return EgressDecision(**fields, previous_hash=decision.previous_hash.hex(), hash=decision.hash.hex())


def _state(state: EgressState) -> SessionEgress:
    return SessionEgress(session_id=state.session_id, revoked_at=state.revoked_at)
