"""Following a session: through the public SDK, and as a plain client that reconnects."""

import asyncio
import json
from typing import Any

import httpx
import psycopg
import pytest
from anthropic import AsyncAnthropic, BadRequestError

from controlplane.store import events
from controlplane.store.deltas import CHANNEL
from controlplane.store.events import NewEvent

from .conftest import WORKSPACE, Api
from .sse import follow, take


def message(text: str) -> Any:
    return {"type": "user.message", "content": [{"type": "text", "text": text}]}


async def notify(api: Api, session_id: str, *frames: dict[str, Any]) -> None:
    """Announce previews as a brain worker does."""
    async with api.database.transaction(WORKSPACE) as connection:
        for frame in frames:
            payload = json.dumps({"s": session_id, "f": frame})
            await connection.execute("SELECT pg_notify(%s, %s)", (CHANNEL, payload))


async def record(api: Api, session_id: str, *new: NewEvent) -> None:
    async with api.database.transaction(WORKSPACE) as connection:
        await events.append(connection, session_id, new)


def start(event_id: str, kind: str = "agent.message") -> dict[str, Any]:
    return {"type": "event_start", "event": {"id": event_id, "type": kind}}


def delta(event_id: str, text: str) -> dict[str, Any]:
    content = {"type": "content_delta", "index": 0, "content": {"type": "text", "text": text}}
    return {"type": "event_delta", "event_id": event_id, "delta": content}


async def test_the_sdk_sees_what_happens_from_now_on(client: AsyncAnthropic, session: Any):
    await client.beta.sessions.events.send(session.id, events=[message("before")])
    async with await client.beta.sessions.events.stream(session.id) as stream:
        await client.beta.sessions.events.send(session.id, events=[message("after")])
        event = await anext(aiter(stream))
    assert event.type == "user.message"
    assert event.content[0].text == "after"


async def test_recorded_events_carry_their_seq_and_their_type(
    client: AsyncAnthropic, http: httpx.AsyncClient, session: Any
):
    await client.beta.sessions.events.send(session.id, events=[message("1"), {"type": "user.interrupt"}])
    async with follow(http, session.id, after=0) as frames:
        first, second = await take(frames, 2)
    assert (first.id, first.event, first.data["type"]) == ("1", "user.message", "user.message")
    assert (second.id, second.event) == ("2", "user.interrupt")
    assert first.data["processed_at"] is None


@pytest.mark.parametrize("way", ["after", "Last-Event-ID"])
async def test_a_client_that_reconnects_misses_nothing_and_sees_nothing_twice(
    client: AsyncAnthropic, http: httpx.AsyncClient, session: Any, way: str
):
    seen: list[str | None] = []
    for round_number in range(4):
        await client.beta.sessions.events.send(session.id, events=[message(f"{round_number}a")])
        last = seen[-1] if seen else "0"
        options: Any = {"after": last} if way == "after" else {"headers": {"Last-Event-ID": last}}
        async with follow(http, session.id, **options) as frames:
            seen += [frame.id for frame in await take(frames, 1)]
            await client.beta.sessions.events.send(session.id, events=[message(f"{round_number}b")])
            seen += [frame.id for frame in await take(frames, 1)]
    assert seen == [str(number) for number in range(1, 9)]


async def test_many_followers_see_the_same_while_many_write(
    client: AsyncAnthropic, http: httpx.AsyncClient, session: Any
):
    async def read() -> list[Any]:
        async with follow(http, session.id, after=0) as frames:
            return [(frame.id, frame.data["id"]) for frame in await take(frames, 40)]

    async def write(writer: int) -> None:
        for number in range(10):
            await client.beta.sessions.events.send(session.id, events=[message(f"{writer}.{number}")])

    *readings, _ = await asyncio.gather(*(read() for _ in range(5)), asyncio.gather(*(write(w) for w in range(4))))
    assert all(reading == readings[0] for reading in readings)
    assert [seq for seq, _ in readings[0]] == [str(number) for number in range(1, 41)]


async def test_more_events_than_a_page_are_replayed(api: Api, http: httpx.AsyncClient, session: Any):
    await record(api, session.id, *(NewEvent(type="span.model_request_start") for _ in range(1100)))
    async with follow(http, session.id, after=0) as frames:
        ids = [frame.id for frame in await take(frames, 1100)]
    assert ids == [str(number) for number in range(1, 1101)]


async def test_a_stream_ahead_of_its_session_waits(client: AsyncAnthropic, http: httpx.AsyncClient, session: Any):
    async with follow(http, session.id, after=1) as frames:
        await client.beta.sessions.events.send(session.id, events=[message("skipped"), message("shown")])
        [frame] = await take(frames, 1)
    assert frame.id == "2"


async def test_a_deleted_session_ends_its_streams(client: AsyncAnthropic, http: httpx.AsyncClient, session: Any):
    await client.beta.sessions.events.send(session.id, events=[message("1")])
    async with await client.beta.sessions.events.stream(session.id) as stream, follow(http, session.id) as frames:
        await client.beta.sessions.delete(session.id)
        [event] = [event async for event in stream]
        [frame] = [frame async for frame in frames]
    assert (event.type, event.processed_at is not None) == ("session.deleted", True)
    assert (frame.event, frame.id, frame.data["id"]) == ("session.deleted", "2", event.id)


async def test_previews_come_before_the_event_and_only_if_asked_for(
    api: Api, client: AsyncAnthropic, http: httpx.AsyncClient, session: Any
):
    async with (
        await client.beta.sessions.events.stream(session.id, event_deltas=["agent.message"]) as stream,
        follow(http, session.id) as plain,
    ):
        await asyncio.sleep(0)
        await _until_followed(api, 2)
        await notify(api, session.id, start("sevt_p"), delta("sevt_p", "Hel"), delta("sevt_p", "lo"))
        await record(
            api,
            session.id,
            NewEvent(id="sevt_p", type="agent.message", payload={"content": [{"type": "text", "text": "Hello"}]}),
        )
        shown = [await anext(aiter(stream)) for _ in range(4)]
        [only] = await take(plain, 1)
    assert [event.type for event in shown] == ["event_start", "event_delta", "event_delta", "agent.message"]
    assert "".join(event.delta.content.text for event in shown[1:3]) == shown[3].content[0].text == "Hello"
    assert (only.event, only.data["id"]) == ("agent.message", "sevt_p")


async def test_previews_carry_no_id(api: Api, http: httpx.AsyncClient, session: Any):
    async with follow(http, session.id, event_deltas="agent.message") as frames:
        await _until_followed(api, 1)
        await notify(api, session.id, start("sevt_q"), delta("sevt_q", "x"))
        found = await take(frames, 2)
    assert [(frame.id, frame.event) for frame in found] == [(None, "event_start"), (None, "event_delta")]


async def test_only_the_types_asked_for_are_previewed(api: Api, http: httpx.AsyncClient, session: Any):
    async with follow(http, session.id, **{"event_deltas[]": "agent.thinking"}) as frames:
        await _until_followed(api, 1)
        await notify(
            api,
            session.id,
            start("sevt_r"),
            delta("sevt_r", "not this"),
            start("sevt_s", "agent.thinking"),
        )
        [frame] = await take(frames, 1)
    assert frame.data["event"] == {"id": "sevt_s", "type": "agent.thinking"}


async def test_a_delta_whose_start_was_missed_is_not_shown(api: Api, http: httpx.AsyncClient, session: Any):
    async with follow(http, session.id, event_deltas="agent.message") as frames:
        await _until_followed(api, 1)
        await notify(api, session.id, delta("sevt_t", "lost"), start("sevt_u"))
        [frame] = await take(frames, 1)
    assert frame.data["event"]["id"] == "sevt_u"


async def test_a_client_that_leaves_is_forgotten(api: Api, http: httpx.AsyncClient, session: Any):
    async with follow(http, session.id):
        await _until_followed(api, 1)
    await _until_followed(api, 0)


async def test_a_stream_survives_the_loss_of_every_database_connection(
    api: Api, client: AsyncAnthropic, http: httpx.AsyncClient, session: Any
):
    async with follow(http, session.id, after=0) as frames:
        await client.beta.sessions.events.send(session.id, events=[message("1")])
        await take(frames, 1)
        async with await psycopg.AsyncConnection.connect(api.database_url, autocommit=True) as connection:
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        await _send_until_accepted(http, session.id)
        [frame] = await take(frames, 1)
    assert frame.id == "2"


async def test_previews_come_again_after_the_loss_of_the_listening_connection(
    api: Api, http: httpx.AsyncClient, session: Any
):
    async with follow(http, session.id, event_deltas="agent.message") as frames:
        await _until_followed(api, 1)
        async with await psycopg.AsyncConnection.connect(api.database_url, autocommit=True) as connection:
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND query LIKE 'LISTEN%'"
            )
            reading = asyncio.create_task(take(frames, 1))
            while not reading.done():
                payload = json.dumps({"s": session.id, "f": start("sevt_v")})
                await connection.execute("SELECT pg_notify(%s, %s)", (CHANNEL, payload))
                await asyncio.wait([reading], timeout=0.1)
        [frame] = reading.result()
    assert frame.event == "event_start"


@pytest.mark.parametrize("value", ["-1", "x", "1.5", "9" * 30])
async def test_a_bad_position_is_refused(client: AsyncAnthropic, session: Any, value: str):
    with pytest.raises(BadRequestError) as caught:
        await client.beta.sessions.events.stream(session.id, extra_query={"after": value})
    assert caught.value.body["error"]["field"] == "after"
    with pytest.raises(BadRequestError) as caught:
        await client.beta.sessions.events.stream(session.id, extra_headers={"Last-Event-ID": value})
    assert caught.value.body["error"]["field"] == "Last-Event-ID"


async def test_an_unknown_preview_is_refused(client: AsyncAnthropic, session: Any):
    wanted: Any = ["agent.abacus"]
    with pytest.raises(BadRequestError):
        await client.beta.sessions.events.stream(session.id, event_deltas=wanted)


async def _until_followed(api: Api, count: int) -> None:
    async with httpx.AsyncClient(base_url=api.url) as http:
        while f"bulkhead_streams_open {float(count)}" not in (await http.get("/metrics")).text:
            continue


async def _send_until_accepted(http: httpx.AsyncClient, session_id: str) -> None:
    headers = {"Idempotency-Key": f"again-{session_id}"}
    while True:
        answer = await http.post(
            f"/v1/sessions/{session_id}/events", json={"events": [message("2")]}, headers=headers
        )
        if answer.status_code == 200:
            return
        assert answer.status_code == 503, answer.text
        assert answer.headers["retry-after"]
