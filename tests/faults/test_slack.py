"""Whatever is killed between what a person says and the last message of the answer: one turn, one answer, whole."""

import asyncio
import os
import random
import signal
from collections.abc import AsyncGenerator
from typing import Any

import psycopg
import pytest

from controlplane.embedded.postgres import EmbeddedPostgres
from tests.e2e.test_approvals import asking, call
from tests.support.client import run, script, text
from tests.support.emulator import buttons, free_port, shown
from tests.support.slack import STAGES, Kills, Stage, Workspace, workspace
from tests.support.stack import Stack

STEPS: list[tuple[str, Stage]] = [
    ("reactions.add", "came"),
    *(
        (asked, stage)
        for asked in (
            "POST /v1/sessions",
            "POST /v1/sessions/*/events",
            "POST /v1/approvals/*",
            "chat.postMessage",
            "chat.postMessage",
            "chat.update",
            "chat.delete",
            "files.getUploadURLExternal",
            "files.completeUploadExternal",
        )
        for stage in STAGES
    ),
]
"""Each conversation below comes to all of them: what is planned and not sent, sent and not noted, and the rest."""
LONG = "\n\n".join(f"Paragraph {n} " + "word " * 60 for n in range(90))


@pytest.fixture(scope="module")
async def slack(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Workspace]:
    """A workspace that is told things by signed HTTP requests, with an agent that asks before it writes files."""
    agent = {"tools": [asking("write")]}
    async with workspace(stack, tmp_path_factory.mktemp("slack"), "events", agent=agent) as opened:
        yield opened


async def once_and_whole(slack: Workspace, channel: str, thread: str, wanted: list[str]) -> None:
    """See that the thread has these answers, each once, and that its session was told as many messages."""
    messages = await slack.answers(channel, thread, times=len(wanted), seconds=100)
    joined = "\n".join(shown(each) for each in messages)
    for each in wanted:
        assert joined.count(each) == 1, f"{each!r} stands {joined.count(each)} times"
    session_id = shown(messages[-1]).rpartition("/")[2]
    told = await slack.client.get(f"/v1/sessions/{session_id}/events", types="user.message", limit="1000")
    assert len(told["data"]) == len(wanted), [text(event)[:200] for event in told["data"]]
    runs = await slack.client.get(f"/v1/sessions/{session_id}/events", types="session.status_idle", limit="1000")
    assert len(runs["data"]) == len(wanted)


async def seen(slack: Workspace, channel: str, thread: str, words: str) -> dict[str, Any]:
    """Wait for a message of ours that says something, and return it."""

    async def there() -> dict[str, Any] | None:
        found = await slack.slack.thread(channel, thread)
        return next((each for each in found if words in shown(each)), None)

    return await slack.until(there, words, seconds=150)


async def converse(slack: Workspace, channel: str) -> None:
    """Hold a conversation that comes to each step, and see that all of it stands there once."""
    ts = await slack.slack.mention(channel, script(run("sleep 300"), {"text": "never"}))
    await seen(slack, channel, ts, "running `sleep 300`")
    await slack.slack.say(channel, "stop", thread=ts)
    left = run("echo x > /mnt/session/outputs/left.txt")
    asks = {"tools": [call("write", file_path="/tmp/allowed", content="x")]}
    await slack.slack.say(channel, script(left, asks, {"text": LONG}), thread=ts)
    await slack.slack.press(await seen(slack, channel, ts, "Approval needed"), "allow")
    await seen(slack, channel, ts, "allowed by Alice Anderson")
    await slack.answers(channel, ts, seconds=150)

    async def still() -> bool:
        return "running" not in str(await slack.slack.thread(channel, ts))

    await slack.until(still, "no status left")
    found = await slack.slack.thread(channel, ts)
    assert [file["name"] for each in found for file in each.get("files") or []] == ["left.txt"]
    joined = "\n".join(shown(each) for each in found)
    assert joined.count("Approval needed") == 1
    assert not any(buttons(each) for each in found)
    assert all(joined.count(f"Paragraph {n} ") == 1 for n in range(90))
    session_id = joined.strip().rpartition("/")[2]
    told = (await slack.client.get(f"/v1/sessions/{session_id}/events", types="user.message", limit="1000"))["data"]
    assert len(told) == 2, [text(event)[:200] for event in told]
    sessions = (await slack.client.get("/v1/sessions", limit="100"))["data"]
    assert len([each for each in sessions if each["metadata"].get("thread") == ts]) == 1


@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_the_front_door_is_killed_at_each_step(slack: Workspace) -> None:
    with Kills(slack, STEPS) as kills:
        await asyncio.gather(*(converse(slack, channel) for channel in slack.slack.channels))
    assert not kills.left, "nothing was killed there"


@pytest.mark.slow
@pytest.mark.thorough
async def test_another_part_is_killed_while_it_answers(slack: Workspace) -> None:
    for part in ("api", "brain", "temporal"):
        said = script(run("sleep 2; echo done"), {"text": f"{part} was killed: {{{{result}}}}"})
        ts = await slack.slack.mention("C002", said)
        for pause in (0.2, 1.0):
            await asyncio.sleep(pause)
            os.kill(slack.client.stack.parts()[part], signal.SIGKILL)
            await slack.client.stack.ready_again()
        await once_and_whole(slack, "C002", ts, [f"{part} was killed: done"])


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_the_front_door_is_killed_at_any_moment(slack: Workspace) -> None:
    chance = random.Random(1)
    slack.relay.copies = 2
    slack.relay.faults["chat.postMessage"] = chance.choices(["limit", "fail", "take_and_fail", "take_and_cut"], k=4)
    threads = []
    for n in range(4):
        threads.append(await slack.slack.mention("C003", script({"text": f"answer {n} it is"})))
        await asyncio.sleep(chance.uniform(0, 1))
        await slack.door.kill()
    slack.relay.copies = 1
    for n, ts in enumerate(threads):
        await once_and_whole(slack, "C003", ts, [f"answer {n} it is"])


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_two_front_doors_do_not_answer_twice_and_who_loses_the_lock_answers_no_more(slack: Workspace) -> None:
    database = EmbeddedPostgres(slack.client.stack.data_dir / "postgres").url()
    other = slack.door.start(port=free_port())
    try:
        await other.ready()
        steps = [run("sleep 2"), {"text": "said once"}]
        threads = [(n, await slack.slack.mention(f"C{n:03}", script(*steps))) for n in (1, 2, 3, 1, 2, 3)]
        for _ in range(4):
            await slack.until(lambda: locks_taken(database), "somebody who works on the threads")
        for n, ts in threads:
            await once_and_whole(slack, f"C{n:03}", ts, ["said once"])
    finally:
        other.kill()


async def locks_taken(database: str) -> bool:
    """Take the threads' locks from whoever has them; say whether anybody had."""
    async with await psycopg.AsyncConnection.connect(database) as connection:
        cursor = await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM (SELECT DISTINCT pid FROM pg_locks"
            " WHERE locktype = 'advisory' AND classid = 7200) holders"
        )
        return bool(await cursor.fetchall())
