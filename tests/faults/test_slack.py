"""Whatever is killed between what a person says and the last message of the answer: one turn, one answer, whole."""

import asyncio
import os
import random
import signal
from collections.abc import AsyncGenerator
from typing import Literal

import psycopg
import pytest

from controlplane.embedded.postgres import EmbeddedPostgres
from tests.support.client import run, script, text
from tests.support.emulator import free_port, shown
from tests.support.slack import Workspace, workspace
from tests.support.stack import Stack

STEPS = [
    ("reactions.add", "came", 1),
    *(("chat.postMessage", stage, nth) for stage in ("came", "taken") for nth in (1, 2, 3)),
    *(
        (method, stage, 1)
        for method in ("chat.delete", "files.getUploadURLExternal", "files.completeUploadExternal")
        for stage in ("came", "taken")
    ),
]
"""Each is come to: a first answer in three messages, then a status that is taken away, and a file."""
LONG = "\n\n".join(f"Paragraph {n} " + "word " * 60 for n in range(90))


@pytest.fixture(scope="module")
async def slack(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Workspace]:
    """A workspace that is told things by signed HTTP requests."""
    async with workspace(stack, tmp_path_factory.mktemp("slack"), "events") as opened:
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


@pytest.mark.slow
@pytest.mark.timeout(200)
@pytest.mark.parametrize(("method", "stage", "nth"), STEPS)
async def test_the_front_door_is_killed_at_each_step(
    slack: Workspace, method: str, stage: Literal["came", "taken"], nth: int
) -> None:
    seen = 0

    async def watch(called: str, at: str) -> bool:
        nonlocal seen
        seen += (called, at) == (method, stage)
        if seen == nth and (called, at) == (method, stage):
            slack.relay.watch = None
            await slack.door.kill()
            return True
        return False

    slack.relay.watch = watch
    ts = await slack.slack.mention("C001", script({"text": LONG}))
    await once_and_whole(slack, "C001", ts, ["Paragraph 0 "])
    command = "sleep 4; echo x > /mnt/session/outputs/left.txt; echo through"
    second = script(run(command), {"text": "the second: {{result}}"})
    await slack.slack.say("C001", second, thread=ts)
    await slack.answers("C001", ts, times=2, seconds=100)

    async def with_file() -> bool:
        return "left.txt" in str(await slack.slack.thread("C001", ts))

    await slack.until(with_file, "the file")
    assert slack.relay.watch is None, "nothing was killed"
    files = [file for each in await slack.slack.thread("C001", ts) for file in each.get("files") or []]
    assert [file["name"] for file in files] == ["left.txt"]
    joined = "\n".join(shown(each) for each in await slack.slack.thread("C001", ts))
    assert all(joined.count(f"Paragraph {n} ") == 1 for n in range(90))
    assert joined.count("the second: through") == 1
    assert "running" not in joined, "no status is left"


@pytest.mark.slow
@pytest.mark.parametrize("part", ["api", "brain", "temporal"])
async def test_another_part_is_killed_while_it_answers(slack: Workspace, part: str) -> None:
    ts = await slack.slack.mention(
        "C002", script(run("sleep 2; echo done"), {"text": f"{part} was killed: {{{{result}}}}"})
    )
    for pause in (0.2, 1.0):
        await asyncio.sleep(pause)
        os.kill(slack.client.stack.parts()[part], signal.SIGKILL)
        await slack.client.stack.ready_again()
    await once_and_whole(slack, "C002", ts, [f"{part} was killed: done"])


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", range(3))
async def test_the_front_door_is_killed_at_any_moment(slack: Workspace, seed: int) -> None:
    chance = random.Random(seed)
    slack.relay.copies = 2
    slack.relay.faults["chat.postMessage"] = chance.choices(["limit", "fail", "take_and_fail", "take_and_cut"], k=4)
    threads = []
    for n in range(4):
        threads.append(await slack.slack.mention("C003", script({"text": f"answer {seed}.{n} it is"})))
        await asyncio.sleep(chance.uniform(0, 1))
        await slack.door.kill()
    slack.relay.copies = 1
    for n, ts in enumerate(threads):
        await once_and_whole(slack, "C003", ts, [f"answer {seed}.{n} it is"])


@pytest.mark.slow
async def test_two_front_doors_do_not_answer_twice(slack: Workspace) -> None:
    other = slack.door.start(port=free_port())
    await other.ready()
    threads = [await slack.slack.mention("C001", script({"text": f"both are up {n}!"})) for n in range(6)]
    other.kill()
    for n, ts in enumerate(threads):
        await once_and_whole(slack, "C001", ts, [f"both are up {n}!"])


@pytest.mark.slow
@pytest.mark.timeout(200)
async def test_who_loses_the_lock_answers_no_more(slack: Workspace) -> None:
    database = EmbeddedPostgres(slack.client.stack.data_dir / "postgres").url()
    other = slack.door.start(port=free_port())
    await other.ready()
    threads = [await slack.slack.mention("C002", script(run("sleep 2"), {"text": f"once {n}!"})) for n in range(4)]
    for _ in range(4):
        await asyncio.sleep(1)
        async with await psycopg.AsyncConnection.connect(database) as connection:
            cursor = await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM (SELECT DISTINCT pid FROM pg_locks"
                " WHERE locktype = 'advisory' AND classid = 7200) holders"
            )
            assert await cursor.fetchall(), "somebody works on the threads"
    for n, ts in enumerate(threads):
        await once_and_whole(slack, "C002", ts, [f"once {n}!"])
    other.kill()
