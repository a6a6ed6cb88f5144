"""/v1/sessions/{id}/events: send, list and follow."""

from collections.abc import AsyncGenerator, Sequence
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query
from starlette.responses import Response, StreamingResponse

from controlplane.api.exchange import CurrentExchange, Exchange, json_response, reads
from controlplane.api.pages import Cursor, LimitParam, PageParam, SmallInteger, Times, decode, encode, times
from controlplane.api.stream import EventStream, SessionStream
from controlplane.checks import refused
from controlplane.ids import shown_name
from controlplane.sessions.inputs import check_inputs, check_open, recorded_inputs
from controlplane.store import events, sessions
from controlplane.store.events import Event, EventFilter
from controlplane.store.pool import Connection
from controlplane.wire.common import Page
from controlplane.wire.events import (
    EVENT_TYPES,
    DeltaType,
    EventsSend,
    SentEvents,
    UserToolConfirmation,
    WireEvent,
)

router = APIRouter(prefix="/v1/sessions/{session_id}/events", tags=["events"])

_DEFAULT_LIMIT = 100
_NEWEST_SEQ = 2**63 - 1


@router.post("", response_model=SentEvents)
async def send_events(exchange: CurrentExchange, session_id: str, wanted: EventsSend = reads(EventsSend)) -> Response:
    """Queue events for a session: all of them or none. Once this answers, they are not lost."""
    check_inputs(wanted.events, "events")
    if any(isinstance(event, UserToolConfirmation) for event in wanted.events):
        exchange.require_decider("decide about tool calls")
    recorded: list[Event] = []

    async def effect(connection: Connection) -> SentEvents:
        await check_open(connection, session_id, wanted.expected_seq)
        new = await recorded_inputs(connection, session_id, wanted.events, "events", by=exchange.key_id)
        recorded.extend(await events.append(connection, session_id, new))
        return sent(recorded)

    response = await exchange.once(effect)
    if recorded:
        exchange.parts.submitter.submitted(exchange.workspace_id, session_id, recorded)
    return response


@router.get("", response_model=Page[WireEvent])
async def list_events(
    exchange: CurrentExchange,
    session_id: str,
    window: Annotated[Times, Depends(times)],
    types: Annotated[list[str] | None, Query(description="Any of these types.")] = None,
    types_bracketed: Annotated[list[str] | None, Query(alias="types[]")] = None,
    order: Annotated[str, Query(pattern="^(asc|desc)$", description="By seq.")] = "asc",
    limit: LimitParam = _DEFAULT_LIMIT,
    page: PageParam = None,
) -> Response:
    """List the events of a session. Times compare with `processed_at`."""
    cursor = decode(page, f"events-{order}")
    narrowed = EventFilter(
        types=_known_types([*(types or []), *(types_bracketed or [])]),
        order="asc" if order == "asc" else "desc",
        beyond_seq=cursor.n,
        created_at_gt=window.gt,
        created_at_gte=window.gte,
        created_at_lt=window.lt,
        created_at_lte=window.lte,
    )
    async with exchange.transaction() as connection:
        await sessions.last_seq(connection, session_id)
        found = await events.listing(connection, session_id, narrowed, limit=limit + 1)
    shown = found[:limit]
    following = encode(Cursor(of=cursor.of, n=shown[-1].seq)) if len(found) > limit else None
    return json_response(Page[WireEvent](data=[_wire(event) for event in shown], next_page=following))


@router.get(
    "/stream",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}},
)
async def stream_events(
    exchange: CurrentExchange,
    session_id: str,
    event_deltas: Annotated[list[DeltaType] | None, Query(description="Also show these while they are made.")] = None,
    event_deltas_bracketed: Annotated[list[DeltaType] | None, Query(alias="event_deltas[]")] = None,
    after: Annotated[
        int | None, SmallInteger, Query(ge=0, le=_NEWEST_SEQ, description="Replay from the seq after this one.")
    ] = None,
    last_event_id: Annotated[str | None, Header(description="As `after`; what a client saw last.")] = None,
) -> EventStream:
    """Follow a session as server-sent events, each with its seq as `id`.

    Without `after` and `Last-Event-ID` the stream starts at now; with either it replays what came after it first.
    """
    async with exchange.transaction() as connection:
        newest = await sessions.last_seq(connection, session_id)
    start = _start(after, last_event_id, newest)
    previews = {*(event_deltas or []), *(event_deltas_bracketed or [])}
    return EventStream(_frames(exchange, session_id, start, previews))


async def _frames(exchange: Exchange, session_id: str, start: int, previews: set[str]) -> AsyncGenerator[bytes]:
    parts = exchange.parts
    with parts.hub.follow(session_id, wants_previews=bool(previews)) as follower:
        stream = SessionStream(
            parts.database,
            follower,
            workspace_id=exchange.workspace_id,
            session_id=session_id,
            seq=start,
            previews=previews,
        )
        async for chunk in stream.frames():
            yield chunk


def _start(after: int | None, last_event_id: str | None, newest: int) -> int:
    if last_event_id:
        if not last_event_id.isascii() or not last_event_id.isdigit() or len(last_event_id) > 18:
            raise refused(
                "Last-Event-ID",
                "not the id of an event of this stream",
                next_step="send the last id seen, or omit it",
            )
        return int(last_event_id)
    return newest if after is None else after


def _known_types(types: list[str]) -> list[str] | None:
    for name in types:
        if name not in EVENT_TYPES:
            raise refused("types", f"unknown event type {shown_name(name)!r}", next_step="see /docs for the types")
    return types or None


def sent(recorded: Sequence[Event]) -> SentEvents:
    """Return recorded events as the answer to whoever sent them."""
    return SentEvents(data=[_wire(event) for event in recorded])


def _wire(event: Event) -> WireEvent:
    return WireEvent.model_validate(event.wire())
