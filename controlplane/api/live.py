"""/v1/live: everything that is alive, and the switch that stops it."""

import asyncio
import time
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from controlplane.api.exchange import CurrentExchange, Exchange, json_response, reads
from controlplane.store import agents, environments, live, sessions
from controlplane.store.live import Kind, LiveFilter, LiveThing
from controlplane.store.pool import Connection
from controlplane.wire.live import LiveItem, LiveList, LiveStop, LiveStopped, StoppedItem

router = APIRouter(prefix="/v1/live", tags=["live"])

_MOST = 1000
_LOOK_SECONDS = 0.05


@router.get("", response_model=LiveList)
async def list_live(
    exchange: CurrentExchange,
    kinds: Annotated[list[Kind] | None, Query(description="Any of these.")] = None,
    kinds_bracketed: Annotated[list[Kind] | None, Query(alias="kinds[]")] = None,
    session_id: Annotated[str | None, Query(max_length=128)] = None,
    agent_id: Annotated[str | None, Query(max_length=128)] = None,
    environment_id: Annotated[str | None, Query(max_length=128)] = None,
) -> Response:
    """List the turns, commands, sandboxes and egress streams that are alive now, the longest alive first."""
    narrowed = LiveFilter(
        kinds=[*(kinds or []), *(kinds_bracketed or [])] or None,
        session_id=session_id,
        agent_id=agent_id,
        environment_id=environment_id,
    )
    async with exchange.transaction() as connection:
        found = await live.listing(connection, narrowed, limit=_MOST + 1)
    data = [LiveItem(**each.model_dump()) for each in found[:_MOST]]
    return json_response(LiveList(data=data, has_more=len(found) > _MOST))


@router.post("/stop", response_model=LiveStopped)
async def stop_live(exchange: CurrentExchange, wanted: LiveStop = reads(LiveStop, optional=True)) -> Response:
    """Stop what is alive, and say of each thing whether its end is proven.

    Turns are interrupted, and the sessions go on with what is queued. Repeating it stops what is alive by then.
    """
    narrowed = LiveFilter(**wanted.model_dump(exclude={"wait_seconds"}, exclude_unset=True))
    began = time.monotonic()
    async with exchange.transaction() as connection:
        await _check_known(connection, narrowed)
        found = await live.listing(connection, narrowed, limit=_MOST + 1)
        ordered = await live.stop(connection, found[:_MOST])
    for event in ordered:
        exchange.parts.submitter.submitted(exchange.workspace_id, event.session_id, [event])
    ended = await _proofs(exchange, found[:_MOST], began=began, wait_seconds=wanted.wait_seconds)
    data = [StoppedItem(**each.model_dump(), ended_after_ms=ended.get(each.id)) for each in found[:_MOST]]
    answer = LiveStopped(proven=len(ended), unproven=len(data) - len(ended), data=data, has_more=len(found) > _MOST)
    return json_response(answer)


async def _check_known(connection: Connection, narrowed: LiveFilter) -> None:
    """Refuse a filter that names nothing: who stops what is not there believes that it has ended."""
    if narrowed.session_id is not None:
        await sessions.last_seq(connection, narrowed.session_id)
    if narrowed.agent_id is not None:
        await agents.get(connection, narrowed.agent_id)
    if narrowed.environment_id is not None:
        await environments.get(connection, narrowed.environment_id)


async def _proofs(
    exchange: Exchange, things: list[LiveThing], *, began: float, wait_seconds: float
) -> dict[str, int]:
    """Watch things end; return after how many milliseconds each was seen to have."""
    ended: dict[str, int] = {}
    while True:
        async with exchange.transaction() as connection:
            alive = await live.alive(connection, things)
        passed = time.monotonic() - began
        for each in things:
            if each.id not in alive:
                ended.setdefault(each.id, round(passed * 1000))
        if not alive or passed > wait_seconds:
            return ended
        await asyncio.sleep(_LOOK_SECONDS)
