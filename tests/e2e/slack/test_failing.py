"""What cannot be acted on does not keep a thread from all that comes after it."""

import json
from typing import Any

import pytest

from controlplane.frontdoors.contract import Said
from tests.support.client import script
from tests.support.emulator import BOT, shown
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


async def replied(slack: Workspace, thread: str, words: str) -> None:
    async def found() -> bool:
        return any(words in shown(each) for each in await slack.slack.thread("C005", thread))

    await slack.until(found, words)
