"""/v1/sessions/{id}/events: send, list and follow."""

from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query
from starlette.responses import Response, StreamingResponse

from controlplane.api.checks import not_supported, refused, require_unarchived
from controlplane.api.exchange import CurrentExchange, Exchange, json_response, reads
from controlplane.api.pages import Cursor, LimitParam, PageParam, SmallInteger, Times, decode, encode, times
from controlplane.api.stream import EventStream, SessionStream
from controlplane.api.wire.common import Page
from controlplane.api.wire.events import (
    EVENT_TYPES,
    DeltaType,
    Document,
    EventsSend,
    FileSource,
    Image,
    InputEvent,
    SentEvents,
    SystemMessage,
    UserCustomToolResult,
    UserDefineOutcome,
    UserInterrupt,
    UserMessage,
    UserToolConfirmation,
    UserToolResult,
    WireEvent,
    payload,
)
from controlplane.errors import ConflictError, InvalidRequestError
from controlplane.ids import shown_id, shown_name
from controlplane.store import approvals, events, files, sessions
from controlplane.store.approvals import CallDecision
from controlplane.store.events import Event, EventFilter, NewEvent
from controlplane.store.pool import Connection

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


def check_inputs(inputs: Sequence[InputEvent], field: str) -> None:
    """Refuse what this version cannot do, and system messages that accompany nothing."""
    for index, event in enumerate(inputs):
        at = f"{field}.{index}"
        if isinstance(event, UserDefineOutcome):
            raise not_supported(f"{at}.type", "outcomes are", next_step="say in a user.message what is to be done")
        if isinstance(event, UserToolResult):
            raise refused(
                f"{at}.type",
                "results of built-in tools come from self-hosted environments only",
                code="not_supported",
                next_step="use user.custom_tool_result for custom tools",
            )
        if isinstance(event, SystemMessage):
            _check_accompanied(inputs, index, at)


def _check_accompanied(inputs: Sequence[InputEvent], index: int, at: str) -> None:
    last = index == len(inputs) - 1
    if not last or index == 0 or not isinstance(inputs[index - 1], UserMessage | UserCustomToolResult):
        raise refused(
            at,
            "a system.message is the last event, right after the user.message or result that it accompanies",
            code="system_message_misplaced",
            next_step="send it in the same request, after that event",
        )


async def recorded_inputs(
    connection: Connection, session_id: str, inputs: Sequence[InputEvent], field: str, *, by: str
) -> list[NewEvent]:
    """Return ``inputs`` ready to be recorded; raises if one refers to something that is not there, or does not wait.

    ``by``: whose the decisions among them are.
    """
    await _check_files(connection, inputs, field)
    return [
        await _recorded_input(connection, session_id, event, f"{field}.{index}", by=by)
        for index, event in enumerate(inputs)
    ]


def _file_references(inputs: Sequence[InputEvent]) -> Iterator[tuple[str, str]]:
    for index, event in enumerate(inputs):
        blocks: Sequence[Any] = event.content if isinstance(event, UserMessage | UserCustomToolResult) else []
        for place, block in enumerate(blocks):
            if isinstance(block, Image | Document) and isinstance(block.source, FileSource):
                yield f"{index}.content.{place}.source.file_id", block.source.file_id


async def _check_files(connection: Connection, inputs: Sequence[InputEvent], field: str) -> None:
    references = list(_file_references(inputs))
    missing = await files.missing(connection, [file_id for _, file_id in references]) if references else []
    for place, file_id in references:
        if file_id in missing:
            raise refused(
                f"{field}.{place}",
                f"no file {shown_id(file_id)!r}",
                code="file_not_found",
                next_step="upload the file first",
            )


async def _recorded_input(
    connection: Connection, session_id: str, event: InputEvent, at: str, *, by: str
) -> NewEvent:
    match event:
        case UserToolConfirmation():
            decision = CallDecision(
                tool_use_id=event.tool_use_id, kind=event.result, by=by, deny_message=event.deny_message
            )
            await approvals.decide(connection, session_id, decision, field=f"{at}.tool_use_id")
            return decision.confirmation()
        case UserCustomToolResult():
            decision = CallDecision(tool_use_id=event.custom_tool_use_id, kind="result", by=by)
            await approvals.decide(connection, session_id, decision, field=f"{at}.custom_tool_use_id")
        case UserInterrupt():
            _check_thread(event, session_id, at)
        case _:
            pass
    return NewEvent(type=event.type, payload=payload(event), queued=True)


def _check_thread(event: UserInterrupt, session_id: str, at: str) -> None:
    if event.session_thread_id not in (None, "sthr_" + session_id.removeprefix("sesn_")):
        raise refused(
            f"{at}.session_thread_id", "no such thread in this session", code="thread_not_found",
            next_step="omit the field",
        )  # fmt: skip


async def check_open(connection: Connection, session_id: str, expected_seq: int | None = None) -> None:
    """Refuse inputs of a session that takes none, and hold it until the caller's transaction ends."""
    gate = await sessions.gate(connection, session_id)
    require_unarchived("session", session_id, gate.archived_at)
    if gate.status == "terminated":
        raise InvalidRequestError(
            f"session {session_id!r} has ended",
            code="session_terminated",
            field="session_id",
            next_step="create a new session",
        )
    if expected_seq is not None and expected_seq != gate.last_seq:
        raise ConflictError(
            f"the session is at seq {gate.last_seq}, not {expected_seq}",
            code="seq_mismatch",
            field="expected_seq",
            next_step="read the events that came in between, then decide again",
        )


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
