"""A person who speaks while a turn runs: in order, right into it, or to stop it."""

import asyncio
import os
import signal
from typing import Any

import pytest

from tests.support.client import Client, run, script, text


def message(said: str, **more: Any) -> dict[str, Any]:
    return {"type": "user.message", "content": [{"type": "text", "text": said}], **more}


async def test_a_steering_message_goes_in_before_the_next_model_request(client: Client) -> None:
    session_id = await client.session()
    async with client.watching(session_id) as watcher:
        await client.say(session_id, script(run("sleep 1.5; echo done"), {"text": "the old way"}))
        await client.say(session_id, script({"text": "a turn of its own"}))
        await watcher.until(lambda w: "agent.tool_use" in w.types)
        (sent,) = await client.send(session_id, message(script({"text": "the new way"}), delivery="steer"))
        assert (sent["processed_at"], sent["delivery"]) == (None, "steer")
        await watcher.until_idle(times=2)
        assert [text(event) for event in watcher.of("agent.message")] == ["the new way", "a turn of its own"]
    listed = (await client.get(f"/v1/sessions/{session_id}/events", limit="100"))["data"]
    assert all(event["processed_at"] for event in listed)


async def test_what_steers_nothing_is_a_message_like_any_other(client: Client) -> None:
    session_id = await client.session()
    async with client.watching(session_id) as watcher:
        await client.send(session_id, message(script({"text": "at once"}), delivery="steer"))
        await watcher.until_idle()
        assert [text(event) for event in watcher.of("agent.message")] == ["at once"]


async def test_a_system_message_steers_with_the_message_that_it_accompanies(client: Client) -> None:
    session_id = await client.session()
    note = {"type": "system.message", "content": [{"type": "text", "text": script({"text": "as noted"})}]}
    async with client.watching(session_id) as watcher:
        await client.say(session_id, script(run("sleep 1.5"), {"text": "unheard"}))
        await watcher.until(lambda w: "agent.tool_use" in w.types)
        await client.send(session_id, message("look at the note", delivery="steer"), note)
        await watcher.until_idle()
        assert [text(event) for event in watcher.of("agent.message")] == ["as noted"]


async def test_what_was_said_before_an_interrupt_is_kept_and_marked(client: Client) -> None:
    session_id = await client.session()
    words = " ".join(f"word{n}" for n in range(400))
    async with client.watching(session_id) as watcher:
        await client.say(session_id, script({"text": words, "chunk_ms": 50, "chunk_chars": 20}))
        await watcher.until(lambda w: any(frame["type"] == "event_delta" for frame in w.previews))
        await client.send(session_id, {"type": "user.interrupt"})
        await watcher.until_idle()
        (kept,) = watcher.of("agent.message")
        assert kept["interrupted"] is True
        assert words.startswith(text(kept))
        assert "word0" in text(kept)
        assert kept["id"] == watcher.previews[0]["event"]["id"], "clients know it as the event that they saw begin"
        assert watcher.events[-1]["stop_reason"] == {"type": "end_turn"}
        ends = watcher.of("span.model_request_end")
        assert [end["is_error"] for end in ends] == [True]
        await client.say(session_id, script({"text": "and on"}))
        await watcher.until_idle(times=2)
        assert text(watcher.of("agent.message")[-1]) == "and on"


async def test_an_interrupt_means_the_turn_that_ran_when_it_was_sent(client: Client) -> None:
    session_id = await client.session()
    async with client.watching(session_id) as watcher:
        await client.say(session_id, script(run("sleep 300"), {"text": "never"}))
        await watcher.until(lambda w: "agent.tool_use" in w.types)
        await client.send(session_id, message(script({"text": "the next"})), {"type": "user.interrupt"})
        await watcher.until_idle(times=2)
        assert [text(event) for event in watcher.of("agent.message")] == ["the next"]


async def test_an_interrupt_that_is_sent_with_its_message_stops_that_message_alone(client: Client) -> None:
    session_id = await client.session()
    first, second = (message(script(run("sleep 300"), {"text": f"never {n}"})) for n in (1, 2))
    stop = {"type": "user.interrupt"}
    async with client.watching(session_id) as watcher:
        await client.send(session_id, first, stop, second, stop, message(script({"text": "the third"})))
        await watcher.until_idle(times=3)
        assert [text(event) for event in watcher.of("agent.message")] == ["the third"]
        assert "agent.tool_use" not in watcher.types


async def test_a_command_that_ignores_the_request_to_end_is_killed_with_its_whole_tree(client: Client) -> None:
    session_id = await client.session()
    stubborn = "trap '' TERM; (trap '' TERM; sleep 299.5) & sleep 299.5"
    async with client.watching(session_id) as watcher:
        await client.say(session_id, script(run(stubborn), {"text": "never"}))
        await watcher.until(lambda w: "agent.tool_use" in w.types)
        await asyncio.sleep(0.5)
        await client.send(session_id, {"type": "user.interrupt"})
        await watcher.until_idle()
        await client.say(session_id, script(run("pgrep sleep || echo none"), {"text": "{{result}}"}))
        await watcher.until_idle(times=2)
        assert text(watcher.of("agent.message")[-1]).startswith("none")


async def test_a_delivery_that_is_not_known_is_refused(client: Client) -> None:
    session_id = await client.session()
    refused = await client.refused(
        f"/v1/sessions/{session_id}/events", {"events": [message("hello", delivery="pigeon")]}
    )
    error = refused.json()["error"]
    assert refused.status_code == 400
    assert "events.0" in error["field"]
    assert "delivery" in error["field"]


@pytest.mark.slow
async def test_what_has_steered_is_not_lost_with_the_brain(client: Client) -> None:
    session_id = await client.session()
    async with client.watching(session_id) as watcher:
        await client.say(session_id, script(run("sleep 1.5"), {"text": "the old way"}))
        await watcher.until(lambda w: "agent.tool_use" in w.types)
        slow = script({"text": "the new way", "first_byte_ms": 1500})
        await client.send(session_id, message(slow, delivery="steer"))
        await watcher.until(lambda w: w.types.count("span.model_request_start") == 2)
        os.kill(client.stack.parts()["brain"], signal.SIGKILL)
        await watcher.until_idle()
        assert [text(event) for event in watcher.of("agent.message")] == ["the new way"]
        assert "session.status_rescheduled" in watcher.types
