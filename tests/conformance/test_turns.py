"""Turns through the public SDK with strict validation, on the whole control plane: every event that a turn makes."""

import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from anthropic import AsyncAnthropic, ConflictError

from tests.support.stack import Stack


def script(*steps: dict[str, Any]) -> Any:
    """A message that tells the scripted model what to answer."""
    block = f"```script\n{json.dumps(steps)}\n```"
    return {"type": "user.message", "content": [{"type": "text", "text": block}]}


def call(name: str, **arguments: Any) -> dict[str, Any]:
    return {"tools": [{"name": name, "input": arguments}]}


@pytest.fixture(scope="module")
async def sdk(stack: Stack) -> AsyncGenerator[AsyncAnthropic]:
    """The public SDK against the whole control plane."""
    async with AsyncAnthropic(
        base_url=stack.url, api_key=stack.api_key, max_retries=5, _strict_response_validation=True
    ) as opened:
        yield opened


async def open_session(sdk: AsyncAnthropic, *, tools: Any = (), model: Any = "scripted/demo", **fields: Any) -> Any:
    agent = await sdk.beta.agents.create(name="player", model=model, tools=list(tools))
    config: Any = {"type": "cloud", "provider": "namespace"}
    environment = await sdk.beta.environments.create(name="box", config=config)
    return await sdk.beta.sessions.create(agent=agent.id, environment_id=environment.id, **fields)


async def until_idle(sdk: AsyncAnthropic, session_id: str, *, after: int = 0, deltas: Any = ()) -> list[Any]:
    """Follow the session from ``after`` until it is idle, and return what was seen."""
    seen: list[Any] = []
    options: Any = {"event_deltas": list(deltas)} if deltas else {}
    async with await sdk.beta.sessions.events.stream(session_id, extra_query={"after": after}, **options) as stream:
        async for event in stream:
            seen.append(event)
            if event.type == "session.status_idle":
                return seen
    raise AssertionError("the stream ended before the session was idle")


def of(events: list[Any], kind: str) -> list[Any]:
    return [event for event in events if event.type == kind]


async def test_a_message_is_answered(sdk: AsyncAnthropic):
    session = await open_session(sdk)
    await sdk.beta.sessions.events.send(session.id, events=[script({"text": "Hello."})])
    seen = await until_idle(sdk, session.id)
    types = [event.type for event in seen]
    assert types.index("session.status_running") < types.index("span.model_request_start")
    assert types.index("span.model_request_start") < types.index("agent.message")
    assert types[-1] == "session.status_idle"
    [answer], [span] = of(seen, "agent.message"), of(seen, "span.model_request_end")
    assert answer.content[0].text == "Hello."
    assert span.model_usage.output_tokens > 0
    assert span.is_error is False
    assert seen[-1].stop_reason.type == "end_turn"


async def test_the_session_counts_what_a_turn_used(sdk: AsyncAnthropic):
    session = await open_session(sdk, initial_events=[script({"text": "Hello."})])
    await until_idle(sdk, session.id)
    after = await sdk.beta.sessions.retrieve(session.id)
    assert after.status == "idle"
    assert after.usage.output_tokens > 0
    assert after.model_extra["stop_reason"]["type"] == "end_turn"
    [thread] = [thread async for thread in sdk.beta.sessions.threads.list(session.id)]
    assert (thread.status, thread.usage.output_tokens) == ("idle", after.usage.output_tokens)


async def test_the_stream_and_the_listing_say_the_same(sdk: AsyncAnthropic):
    session = await open_session(
        sdk, initial_events=[script({**call("sandbox_execute", command="echo hi"), "text": "look"}, {"text": "done"})]
    )
    seen = await until_idle(sdk, session.id)
    listed = [event async for event in sdk.beta.sessions.events.list(session.id, limit=3)]
    assert [event.id for event in listed] == [event.id for event in seen]
    assert (
        len({event.id for event in listed}) == (await sdk.beta.sessions.retrieve(session.id)).model_extra["last_seq"]
    )


async def test_a_command_runs_in_a_sandbox(sdk: AsyncAnthropic):
    steps = [call("sandbox_execute", command="echo forty-$((6 * 7)); exit 3"), {"text": "it said {{result}}"}]
    session = await open_session(sdk, initial_events=[script(*steps)])
    seen = await until_idle(sdk, session.id)
    [use], [result] = of(seen, "agent.tool_use"), of(seen, "agent.tool_result")
    assert (use.name, use.input) == ("sandbox_execute", {"command": "echo forty-$((6 * 7)); exit 3"})
    assert result.tool_use_id == use.id
    assert "forty-42" in result.content[0].text
    assert "forty-42" in of(seen, "agent.message")[-1].content[0].text


async def test_the_toolset_works_on_the_same_sandbox(sdk: AsyncAnthropic):
    steps = [
        call("write", file_path="/workspace/notes.txt", content="alpha\nbeta\n"),
        call("bash", command="echo lines-$(wc -l < /workspace/notes.txt)"),
        {"text": "{{result}}"},
    ]
    session = await open_session(sdk, tools=[{"type": "agent_toolset_20260401"}], initial_events=[script(*steps)])
    seen = await until_idle(sdk, session.id)
    assert [use.name for use in of(seen, "agent.tool_use")] == ["write", "bash"]
    assert [bool(result.is_error) for result in of(seen, "agent.tool_result")] == [False, False]
    assert "lines-2" in of(seen, "agent.tool_result")[1].content[0].text


@pytest.mark.parametrize("mount_path", ["/workspace/in/log.txt", pytest.param(None, id="default")])
async def test_a_mounted_file_is_there(sdk: AsyncAnthropic, mount_path: str | None):
    file = await sdk.beta.files.upload(file=("log.txt", b"needle in a haystack\n", "text/plain"))
    mount: Any = {"type": "file", "file_id": file.id, "mount_path": mount_path}
    path = mount_path or f"/mnt/session/uploads/{file.id}"
    steps = [call("sandbox_execute", command=f"sha256sum {path} && cat {path}"), {"text": "done"}]
    session = await open_session(sdk, resources=[mount], initial_events=[script(*steps)])
    [result] = of(await until_idle(sdk, session.id), "agent.tool_result")
    assert "needle in a haystack" in result.content[0].text


async def test_previews_add_up_to_the_answer(sdk: AsyncAnthropic):
    session = await open_session(sdk)
    words = "one two three four five six seven eight nine ten"
    paced = {"text": words, "first_byte_ms": 500, "chunk_ms": 20, "chunk_chars": 8}
    await sdk.beta.sessions.events.send(session.id, events=[script(paced)])
    seen = await until_idle(sdk, session.id, deltas=["agent.message"])
    [answer] = of(seen, "agent.message")
    pieces = [event.delta.content.text for event in of(seen, "event_delta") if event.event_id == answer.id]
    assert len(pieces) > 1
    assert "".join(pieces) == answer.content[0].text == words
    assert seen.index(of(seen, "event_start")[0]) < seen.index(of(seen, "event_delta")[0]) < seen.index(answer)


async def test_messages_that_wait_are_queued_and_then_processed(sdk: AsyncAnthropic):
    session = await open_session(sdk)
    sent = await sdk.beta.sessions.events.send(
        session.id, events=[script({"text": f"answer {number}"}) for number in range(3)]
    )
    assert [event.processed_at for event in sent.data] == [None, None, None]
    texts: list[str] = []
    after = 0
    while len(texts) < 3:
        seen = await until_idle(sdk, session.id, after=after)
        after += len(seen)
        texts += [event.content[0].text for event in of(seen, "agent.message")]
    assert texts == ["answer 0", "answer 1", "answer 2"]
    processed = [event async for event in sdk.beta.sessions.events.list(session.id, types=["user.message"])]
    assert all(event.processed_at is not None for event in processed)


async def test_a_turn_can_be_interrupted(sdk: AsyncAnthropic):
    session = await open_session(sdk)
    await sdk.beta.sessions.events.send(
        session.id, events=[script(call("sandbox_execute", command="sleep 300"), {"text": "never"})]
    )
    async with await sdk.beta.sessions.events.stream(session.id, extra_query={"after": 0}) as stream:
        async for event in stream:
            if event.type == "agent.tool_use":
                break
        with pytest.raises(ConflictError):
            await sdk.beta.sessions.archive(session.id)
        with pytest.raises(ConflictError):
            await sdk.beta.sessions.delete(session.id)
        await sdk.beta.sessions.events.send(session.id, events=[{"type": "user.interrupt"}])
        seen = await until_idle(sdk, session.id)
    assert len(of(seen, "agent.tool_result")) == len(of(seen, "agent.tool_use")) == 1
    assert of(seen, "agent.message") == []
    assert (await sdk.beta.sessions.archive(session.id)).archived_at is not None


async def test_a_model_that_fails_for_good_is_an_event(sdk: AsyncAnthropic):
    session = await open_session(sdk, model="nobody/has-this-model")
    await sdk.beta.sessions.events.send(session.id, events=[script({"text": "unheard"})])
    seen = await until_idle(sdk, session.id)
    failure = of(seen, "session.error")[-1].error
    assert failure.retry_status.type in ("exhausted", "terminal")
    assert failure.message
    assert seen[-1].stop_reason.type == "retries_exhausted"


async def test_an_idle_session_can_be_deleted_after_its_turns(sdk: AsyncAnthropic):
    session = await open_session(
        sdk, initial_events=[script(call("sandbox_execute", command="true"), {"text": "ok"})]
    )
    await until_idle(sdk, session.id)
    async with await sdk.beta.sessions.events.stream(session.id) as stream:
        await sdk.beta.sessions.delete(session.id)
        assert [event.type async for event in stream] == ["session.deleted"]
