"""What cannot be acted on does not keep a thread from all that comes after it."""

import json
from functools import partial
from typing import Any

import psycopg
import pytest

from controlplane.frontdoors.contract import Said
from tests.support.client import run, script
from tests.support.emulator import BOT, BOT_TOKEN, shown
from tests.support.frontdoors import inbound
from tests.support.holding import held_back, in_its_database
from tests.support.slack import Workspace

READABLE = inbound(Said(text="hello", addressed=True)).model_dump(mode="json")


async def waits(
    slack: Workspace, thread: str, *, body: dict[str, Any], request: dict[str, Any] | None = None
) -> None:
    """Have something wait in a thread as a release left it that nobody knows, on which six have failed."""
    async with in_its_database(slack) as connection:
        await connection.execute(
            "INSERT INTO front_door_inbox (id, workspace_id, front_door_id, place, thread, message, person, body,"
            " request, state, failures, happened_at) SELECT id || 'x', workspace_id, front_door_id, place, thread,"
            " message || '1', person, %s, %s, 'waiting', 6, happened_at FROM front_door_inbox"
            " WHERE thread = %s AND message = %s",
            (json.dumps(body), json.dumps(request) if request else None, thread, thread),
        )
        await connection.execute("SELECT pg_notify('bulkhead_front_doors', '')")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "request_", "error"),
    [({"of": "old"}, None, "UnreadableItemError"), (READABLE, {"of": "old"}, "KeyError")],
    ids=["an item", "what is to be sent for it"],
)
async def test_what_fails_for_ever_is_left_and_the_thread_is_told(
    slack: Workspace, body: dict[str, Any], request_: dict[str, Any] | None, error: str
) -> None:
    ts = await slack.slack.mention("C005", "help")
    await replied(slack, ts, "What I understand")
    before = await slack.refused(f"failed: {error}")
    await waits(slack, ts, body=body, request=request_)
    await replied(slack, ts, f":warning: This could not be done: it failed 8 times (`{error}`)")
    await slack.slack.say("C005", script({"text": "and on"}), thread=ts)
    await slack.answers("C005", ts)
    assert await slack.refused(f"failed: {error}") == before + 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "failures", "error"),
    [({"type": "of old"}, 6, "UnreadablePostError"), ({"type": "text", "markdown": "lost"}, 7, "KeyError")],
    ids=["it cannot be read", "what Slack says of it cannot be read"],
)
async def test_a_message_of_ours_that_fails_for_ever_is_left(
    slack: Workspace, body: dict[str, Any], failures: int, error: str
) -> None:
    ts = await slack.slack.mention("C005", "help")
    await replied(slack, ts, "What I understand")
    before = await slack.refused(f"failed: {error}")

    async def confused(given: dict[str, Any]) -> dict[str, Any]:
        if "lost" in given["text"]:
            return {"ok": True}
        return await slack.relay.ask("chat.postMessage", given, token=BOT_TOKEN)

    slack.relay.stubs["chat.postMessage"] = confused
    async with in_its_database(slack) as connection:
        await connection.execute(
            "INSERT INTO front_door_posts (id, workspace_id, thread_id, name, body, failures)"
            " SELECT id || 'x', workspace_id, id, 'card:old', %s, %s FROM front_door_threads WHERE thread = %s",
            (json.dumps(body), failures, ts),
        )
        await connection.execute("SELECT pg_notify('bulkhead_front_doors', '')")
    await replied(slack, ts, f":warning: A message could not be brought here: it failed 8 times (`{error}`)")
    await slack.slack.say("C005", script({"text": "and on"}), thread=ts)
    await slack.answers("C005", ts)
    del slack.relay.stubs["chat.postMessage"]
    assert await slack.refused(f"failed: {error}") == before + 1


@pytest.mark.slow
async def test_what_a_session_did_that_nobody_can_read_is_left_out(slack: Workspace) -> None:
    """One event in the middle of a turn, and one that ends it."""
    ts = await slack.slack.mention("C005", script({"text": "before"}))
    (answer,) = await slack.answers("C005", ts)
    session_id = shown(answer).rpartition("/")[2]
    before = await slack.refused("failed: KeyError")
    async with in_its_database(slack) as connection:
        for kind, times in (("session.error", 1), ("session.status_idle", 2)):
            await happens(connection, session_id, kind)
            await slack.until(partial(left_out, slack, ts, times), f"{times} left out")
    await slack.slack.say("C005", script({"text": "and on"}), thread=ts)
    *_, last = await slack.answers("C005", ts, times=2)
    assert shown(last).startswith("and on")
    assert await slack.refused("failed: KeyError") == before + 2


@pytest.mark.slow
async def test_what_a_session_did_that_cannot_be_followed_is_left_out(slack: Workspace) -> None:
    ts = await slack.slack.mention("C005", script({"text": "before"}))
    (answer,) = await slack.answers("C005", ts)
    session_id = shown(answer).rpartition("/")[2]
    before = await slack.refused("failed: KeyError")
    slack.passage.instead["GET /v1/sessions/*"] = {"status": "idle", "stop_reason": None}
    async with in_its_database(slack) as connection:
        await happens(connection, session_id, "session.status_idle", is_readable=False)
        await slack.until(partial(left_out, slack, ts, 1), "it left out")
    del slack.passage.instead["GET /v1/sessions/*"]
    await slack.slack.say("C005", script({"text": "and on"}), thread=ts)
    *_, last = await slack.answers("C005", ts, times=2)
    assert shown(last).startswith("and on")
    assert await slack.refused("failed: KeyError") == before + 1


async def happens(
    connection: psycopg.AsyncConnection[tuple[Any, ...]], session_id: str, kind: str, *, is_readable: bool = True
) -> None:
    """Have something happen in a session in a form that nobody knows, which could not be told six times.

    ``is_readable``: otherwise it was not even read.
    """
    async with connection.transaction():
        await connection.execute("UPDATE sessions SET last_seq = last_seq + 1 WHERE id = %s", (session_id,))
        await connection.execute(
            "INSERT INTO events (session_id, workspace_id, seq, position, id, type, payload, processed_at)"
            " SELECT id, workspace_id, last_seq, last_seq, 'sevt_' || id || last_seq, %s, '{}', now() FROM sessions"
            " WHERE id = %s",
            (kind, session_id),
        )
        await connection.execute(
            "UPDATE front_door_threads t SET failures = 6,"
            " failed_seq = CASE WHEN %s THEN s.last_seq ELSE t.seen_seq END FROM sessions s"
            " WHERE s.id = t.session_id AND s.id = %s",
            (is_readable, session_id),
        )
        await connection.execute("SELECT pg_notify('bulkhead_front_doors', '')")


async def left_out(slack: Workspace, thread: str, times: int) -> bool:
    said = ":warning: Something that was done here could not be shown: it failed 8 times (`KeyError`)"
    return [said in shown(each) for each in await slack.slack.thread("C005", thread)].count(True) == times


async def test_an_outage_is_no_failure(slack: Workspace) -> None:
    ts = await slack.slack.mention("C005", "help")
    await replied(slack, ts, "What I understand")
    async with in_its_database(slack) as connection, held_back(slack) as waiting:
        await slack.slack.say("C005", f"<@{BOT}> agents", thread=ts)
        pid = await waiting()
        await connection.execute(
            "UPDATE front_door_inbox SET failures = 7 WHERE thread = %s AND state = 'waiting'", (ts,)
        )
        await connection.execute("SELECT pg_terminate_backend(%s)", (pid,))
    await replied(slack, ts, "`helper`")
    assert ":warning:" not in str(await slack.slack.thread("C005", ts))


@pytest.mark.slow
async def test_a_status_outlives_a_lost_connection(slack: Workspace) -> None:
    async with in_its_database(slack) as connection, held_back(slack) as waiting:
        ts = await slack.slack.mention("C005", script(run("sleep 300"), {"text": "never"}))
        await connection.execute("SELECT pg_terminate_backend(%s)", (await waiting(),))
    await replied(slack, ts, "running `sleep 300`")
    await slack.slack.say("C005", "stop", thread=ts)


async def replied(slack: Workspace, thread: str, words: str) -> None:
    async def found() -> bool:
        return any(words in shown(each) for each in await slack.slack.thread("C005", thread))

    await slack.until(found, words)
