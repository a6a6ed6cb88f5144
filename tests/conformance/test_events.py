"""Sending and listing events through the public SDK."""

import asyncio
import base64
from datetime import UTC, datetime
from typing import Any

import pytest
from anthropic import AsyncAnthropic, BadRequestError, ConflictError, NotFoundError

from controlplane.store import events
from controlplane.store.events import NewEvent

from .conftest import WORKSPACE, Api

PNG = base64.b64encode(b"not really a picture").decode()


def message(text: str = "hello") -> Any:
    return {"type": "user.message", "content": [{"type": "text", "text": text}]}


async def record(api: Api, session_id: str, *new: NewEvent) -> list[str]:
    """Record events that only a turn could make."""
    async with api.database.transaction(WORKSPACE) as connection:
        return [event.id for event in await events.append(connection, session_id, new)]


async def parked(api: Api, session_id: str, kind: str, *, verdict: str) -> str:
    """Record a tool use that waits, as a turn leaves it, and return its id."""
    [use_id] = await record(api, session_id, NewEvent(type=kind, payload={"name": "w", "input": {}}))
    async with api.database.transaction(WORKSPACE) as connection:
        await connection.execute(
            "WITH turn AS (INSERT INTO turns (id, workspace_id, session_id, status)"
            " VALUES (%(turn)s, %(workspace)s, %(session)s, 'ended') RETURNING id)"
            " INSERT INTO tool_calls (id, workspace_id, session_id, turn_id, name, input, verdict)"
            " SELECT %(use)s, %(workspace)s, %(session)s, id, 'w', '{}', %(verdict)s FROM turn",
            {
                "turn": f"turn_{use_id}",
                "workspace": WORKSPACE,
                "session": session_id,
                "use": use_id,
                "verdict": verdict,
            },
        )
    return use_id


async def test_a_message_is_queued_and_passed_on(client: AsyncAnthropic, api: Api, session: Any):
    sent = await client.beta.sessions.events.send(session.id, events=[message("one"), message("two")])
    first, second = sent.data
    assert first.id.startswith("sevt_")
    assert (first.type, first.content[0].text, first.processed_at) == ("user.message", "one", None)
    assert (session.id, [first.id, second.id]) in api.submitter.told
    assert [event async for event in client.beta.sessions.events.list(session.id)] == [first, second]


@pytest.mark.parametrize(
    "block",
    [
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}},
        {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}},
        {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": PNG}},
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "x"}, "title": "t"},
        {"type": "document", "source": {"type": "url", "url": "https://example.com/a.pdf"}, "context": "c"},
    ],
)
async def test_images_and_documents_are_kept_as_they_came(client: AsyncAnthropic, session: Any, block: Any):
    sent = await client.beta.sessions.events.send(
        session.id, events=[{"type": "user.message", "content": [block, {"type": "text", "text": "look"}]}]
    )
    assert sent.data[0].content[0].model_dump(exclude_none=True) == block


async def test_an_uploaded_file_can_be_shown(client: AsyncAnthropic, session: Any):
    file = await client.beta.files.upload(file=("a.pdf", b"%PDF", "application/pdf"))
    block: Any = {"type": "document", "source": {"type": "file", "file_id": file.id}}
    sent = await client.beta.sessions.events.send(session.id, events=[{"type": "user.message", "content": [block]}])
    assert sent.data[0].content[0].source.file_id == file.id


async def test_an_interrupt_is_queued(client: AsyncAnthropic, session: Any):
    sent = await client.beta.sessions.events.send(session.id, events=[{"type": "user.interrupt"}])
    assert (sent.data[0].type, sent.data[0].processed_at) == ("user.interrupt", None)


async def test_an_interrupt_may_name_the_thread(client: AsyncAnthropic, session: Any):
    [thread] = [t async for t in client.beta.sessions.threads.list(session.id)]
    sent = await client.beta.sessions.events.send(
        session.id, events=[{"type": "user.interrupt", "session_thread_id": thread.id}]
    )
    assert sent.data[0].session_thread_id == thread.id


@pytest.mark.parametrize("answer", [{"result": "allow"}, {"result": "deny", "deny_message": "not now"}])
async def test_a_confirmation_is_queued(client: AsyncAnthropic, api: Api, session: Any, answer: Any):
    use = await parked(api, session.id, "agent.tool_use", verdict="ask")
    sent = await client.beta.sessions.events.send(
        session.id, events=[{"type": "user.tool_confirmation", "tool_use_id": use, **answer}]
    )
    assert (sent.data[0].tool_use_id, sent.data[0].result) == (use, answer["result"])


async def test_a_custom_result_is_queued_with_its_system_message(client: AsyncAnthropic, api: Api, session: Any):
    use = await parked(api, session.id, "agent.custom_tool_use", verdict="client")
    result: Any = {
        "type": "user.custom_tool_result",
        "custom_tool_use_id": use,
        "content": [
            {"type": "text", "text": "sunny"},
            {
                "type": "search_result",
                "source": "https://example.com",
                "title": "t",
                "citations": {"enabled": True},
                "content": [{"type": "text", "text": "x"}],
            },
        ],
        "is_error": False,
    }
    system: Any = {"type": "system.message", "content": [{"type": "text", "text": "be brief"}]}
    sent = await client.beta.sessions.events.send(session.id, events=[result, system])
    assert [event.type for event in sent.data] == ["user.custom_tool_result", "system.message"]
    assert sent.data[0].content[1].citations.enabled is True


CONFIRMATION: Any = {"type": "user.tool_confirmation", "tool_use_id": "sevt_x", "result": "allow"}
SYSTEM: Any = {"type": "system.message", "content": [{"type": "text", "text": "x"}]}


@pytest.mark.parametrize(
    ("sent", "field"),
    [
        ([], "events"),
        ([message()] * 51, "events"),
        ([{"type": "abacus"}], "events.0"),
        ([{"content": []}], "events.0"),
        ([{"type": "agent.message", "content": []}], "events.0"),
        ([{"type": "user.message"}], "events.0.content"),
        ([{"type": "user.message", "content": []}], "events.0.content"),
        ([{"type": "user.message", "content": "text"}], "events.0.content"),
        ([message("")], "events.0.content.0.text"),
        ([message(" \n\t")], "events.0.content.0.text"),
        ([message(), message("")], "events.1.content.0.text"),
        ([{"type": "user.message", "content": [{"type": "text", "text": 5}]}], "events.0.content.0.text"),
        ([{"type": "user.message", "content": [{"type": "text", "text": "x", "y": 1}]}], "events.0.content.0.y"),
        ([{"type": "user.message", "content": [{"type": "redacted"}]}], "events.0.content.0"),
        ([{"type": "user.message", "content": [{"type": "image"}]}], "events.0.content.0.source"),
        ([{"type": "user.message", "content": [{"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "%"}}]}], "events.0.content.0.source.data"),  # noqa: E501
        ([{"type": "user.message", "content": [{"type": "image", "source": {"type": "base64", "media_type": "image/tiff", "data": PNG}}]}], "events.0.content.0.source.media_type"),  # noqa: E501
        ([{"type": "user.message", "content": [{"type": "image", "source": {"type": "url", "url": "file:///etc/passwd"}}]}], "events.0.content.0.source.url"),  # noqa: E501
        ([{"type": "user.message", "content": [{"type": "image", "source": {"type": "file", "file_id": "file_x"}}]}], "events.0.content.0.source.file_id"),  # noqa: E501
        ([{"type": "user.define_outcome", "description": "d", "rubric": {"type": "text", "content": "c"}}], "events.0.type"),  # noqa: E501
        ([{"type": "user.tool_result", "tool_use_id": "x"}], "events.0.type"),
        ([{"type": "user.interrupt", "session_thread_id": "sthr_x"}], "events.0.session_thread_id"),
        ([CONFIRMATION], "events.0.tool_use_id"),
        ([{**CONFIRMATION, "result": "maybe"}], "events.0.result"),
        ([{**CONFIRMATION, "deny_message": "m"}], "events.0"),
        ([{"type": "user.custom_tool_result", "custom_tool_use_id": "sevt_x"}], "events.0.custom_tool_use_id"),
        ([SYSTEM], "events.0"),
        ([SYSTEM, message()], "events.0"),
        ([message(), SYSTEM, message()], "events.1"),
        ([message(), SYSTEM, SYSTEM], "events.1"),
        ([{"type": "user.interrupt"}, SYSTEM], "events.1"),
    ],
)  # fmt: skip
async def test_what_cannot_be_sent_is_refused_with_its_field_and_leaves_nothing(
    client: AsyncAnthropic, session: Any, sent: Any, field: str
):
    with pytest.raises(BadRequestError) as caught:
        await client.beta.sessions.events.send(session.id, events=sent)
    assert caught.value.body["error"]["field"] == field
    assert [event async for event in client.beta.sessions.events.list(session.id)] == []


async def test_a_tool_use_of_another_session_is_unknown(
    client: AsyncAnthropic, api: Api, session: Any, agent: Any, environment: Any
):
    use = await parked(api, session.id, "agent.tool_use", verdict="ask")
    other = await client.beta.sessions.create(agent=agent.id, environment_id=environment.id)
    confirmation: Any = {"type": "user.tool_confirmation", "tool_use_id": use, "result": "allow"}
    with pytest.raises(BadRequestError) as caught:
        await client.beta.sessions.events.send(other.id, events=[confirmation])
    assert caught.value.error_code == "tool_use_not_found"


async def test_a_send_may_say_what_it_has_seen(client: AsyncAnthropic, session: Any):
    send = client.beta.sessions.events.send
    await send(session.id, events=[message()], extra_body={"expected_seq": 0})
    with pytest.raises(ConflictError) as caught:
        await send(session.id, events=[message()], extra_body={"expected_seq": 0})
    assert caught.value.error_code == "seq_mismatch"
    await send(session.id, events=[message()], extra_body={"expected_seq": 1})
    assert len([event async for event in client.beta.sessions.events.list(session.id)]) == 2


async def test_of_many_fenced_sends_one_is_accepted(client: AsyncAnthropic, session: Any):
    sends = (
        client.beta.sessions.events.send(session.id, events=[message()], extra_body={"expected_seq": 0})
        for _ in range(8)
    )
    results = await asyncio.gather(*sends, return_exceptions=True)
    assert sum(isinstance(result, ConflictError) for result in results) == 7


async def test_events_are_listed_in_both_orders_and_in_pages(client: AsyncAnthropic, session: Any):
    sent = await client.beta.sessions.events.send(session.id, events=[message(str(n)) for n in range(5)])
    ids = [event.id for event in sent.data]
    listing = client.beta.sessions.events.list
    assert [event.id async for event in listing(session.id, limit=2)] == ids
    assert [event.id async for event in listing(session.id, limit=2, order="desc")] == ids[::-1]


async def test_a_cursor_of_one_order_does_not_fit_the_other(client: AsyncAnthropic, session: Any):
    await client.beta.sessions.events.send(session.id, events=[message(), message()])
    page = await client.beta.sessions.events.list(session.id, limit=1)
    with pytest.raises(BadRequestError) as caught:
        await client.beta.sessions.events.list(session.id, limit=1, order="desc", page=page.next_page)
    assert caught.value.error_code == "bad_cursor"


async def test_events_are_narrowed_by_type(client: AsyncAnthropic, session: Any):
    await client.beta.sessions.events.send(session.id, events=[message(), {"type": "user.interrupt"}])
    await client.beta.sessions.update(session.id, title="t")
    found = client.beta.sessions.events.list(session.id, types=["user.interrupt", "session.updated"])
    assert [event.type async for event in found] == ["user.interrupt", "session.updated"]


async def test_an_unknown_type_is_refused(client: AsyncAnthropic, session: Any):
    wanted: Any = ["abacus"]
    with pytest.raises(BadRequestError) as caught:
        await client.beta.sessions.events.list(session.id, types=wanted)
    assert caught.value.body["error"]["field"] == "types"


@pytest.mark.parametrize(
    ("bound", "expected"),
    [("created_at_gt", [2]), ("created_at_gte", [1, 2]), ("created_at_lt", [0]), ("created_at_lte", [0, 1])],
)
async def test_events_are_narrowed_by_when_they_were_processed(
    client: AsyncAnthropic, api: Api, session: Any, bound: str, expected: list[int]
):
    ids = await record(api, session.id, *(NewEvent(type="span.model_request_start") for _ in range(3)))
    found = [event async for event in client.beta.sessions.events.list(session.id)]
    narrowed: Any = {bound: found[1].processed_at}
    shown = [event.id async for event in client.beta.sessions.events.list(session.id, **narrowed)]
    assert shown == [ids[index] for index in expected]


async def test_a_time_without_a_zone_is_utc(client: AsyncAnthropic, api: Api, session: Any):
    await record(api, session.id, NewEvent(type="span.model_request_start"))
    soon = datetime.now(UTC).replace(tzinfo=None, year=datetime.now(UTC).year + 1)
    assert [e async for e in client.beta.sessions.events.list(session.id, created_at_gt=soon.isoformat())] == []


@pytest.mark.parametrize("verb", ["send", "list", "stream"])
async def test_the_events_of_an_unknown_session_are_not_found(client: AsyncAnthropic, verb: str):
    arguments: Any = {"events": [message()]} if verb == "send" else {}
    with pytest.raises(NotFoundError) as caught:
        await getattr(client.beta.sessions.events, verb)("sesn_00000000000000000000000000", **arguments)
    assert caught.value.error_code == "session_not_found"
