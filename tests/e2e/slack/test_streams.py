"""An answer that is shown while it is written stands there once and whole, whatever becomes of its stream."""

import asyncio
from collections.abc import AsyncGenerator

import pytest

from tests.support.client import run, script
from tests.support.emulator import shown
from tests.support.holding import held_back, in_its_database
from tests.support.slack import Fault, Kills, Stage, Workspace
from tests.support.streams import StreamStub

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

_TRIES = 5
"""A machine that is busy may have an answer as a whole before anything of it was shown."""

WORDS = " ".join(f"word{n}" for n in range(60))


def slowly(text: str = WORDS, *, milliseconds: int = 200) -> dict[str, object]:
    return {"text": text, "chunk_ms": milliseconds, "chunk_chars": 20}


@pytest.fixture(scope="module")
async def streams(slack: Workspace) -> AsyncGenerator[StreamStub]:
    """Streams in a workspace whose front door has yet to learn that it has them."""
    with StreamStub(slack.relay) as stub:
        await slack.door.kill()
        yield stub


@pytest.fixture
def stub(streams: StreamStub) -> StreamStub:
    """The stand-in, with nothing said yet."""
    streams.said.clear()
    streams.appends = 1_000
    return streams


async def stands_once(slack: Workspace, channel: str, thread: str, text: str = WORDS, *, times: int = 1) -> None:
    await slack.answers(channel, thread, times=times, seconds=100)

    async def alone() -> list[str] | None:
        found = [shown(each) for each in await slack.slack.thread(channel, thread)]
        return found if len(found) == times else None

    messages = await slack.until(alone, f"{times} messages and no status")
    assert [each.splitlines()[0] for each in messages].count(text) == 1, messages


async def test_words_come_as_they_are_written_and_no_secret_by_halves(slack: Workspace, stub: StreamStub) -> None:
    token = "ghp_" + "a1B2" * 9
    for n in range(_TRIES):
        stub.said.clear()
        ts = await slack.slack.mention("C001", script(slowly(f"{n}: the token is {token} and so on {WORDS}")))
        await stands_once(slack, "C001", ts, f"{n}: the token is [redacted: GitHub Token] and so on {WORDS}")
        kinds = [kind for kind, _ in stub.said]
        streamed = "".join(said for _, said in stub.said)
        assert "ghp_" not in streamed
        if "append" in kinds and "redacted" in streamed:
            assert (kinds[0], kinds.count("start"), kinds.count("stop")) == ("start", 1, 1)
            assert streamed.startswith(f"{n}: the token is [redacted: GitHub Token] and")
            return
    raise AssertionError("nothing was shown as it was written")


async def test_a_stream_that_can_be_changed_no_more_is_followed_by_the_whole_answer(
    slack: Workspace, stub: StreamStub
) -> None:
    slack.relay.declines["chat.update"] = ["edit_window_closed"]
    ts = await slack.slack.mention("C002", script(slowly(milliseconds=400)))

    async def whole() -> bool:
        found = [shown(each).splitlines()[0] for each in await slack.slack.thread("C002", ts)]
        return len(found) == 2 and found[-1] == WORDS

    await slack.until(whole, "the whole answer behind what was streamed of it")
    assert not slack.relay.declines["chat.update"]
    assert stub.said[0][0] == "start"


async def test_a_lost_connection_does_not_end_what_is_shown(slack: Workspace, stub: StreamStub) -> None:
    said = f"{WORDS} {WORDS} {WORDS}"
    async with in_its_database(slack) as connection, held_back(slack) as waiting:
        ts = await slack.slack.mention("C001", script(slowly(said, milliseconds=400)))
        # One is of the status, one of the answer, whichever comes first.
        lost = set[int]()
        while len(lost) < 2:
            lost.add(pid := await waiting())
            await connection.execute("SELECT pg_terminate_backend(%s)", (pid,))
    await stands_once(slack, "C001", ts, said)
    assert "append" in [kind for kind, _ in stub.said]


@pytest.mark.usefixtures("stub")
async def test_what_is_done_after_words_is_shown_again(slack: Workspace) -> None:
    ts = await slack.slack.mention("C001", script({**slowly(), **run("sleep 300")}, {"text": "never"}))

    async def running() -> bool:
        return any("running `sleep 300" in shown(each) for each in await slack.slack.thread("C001", ts))

    await slack.until(running, "what it does after its first words")
    await slack.slack.say("C001", "stop", thread=ts)

    async def told() -> bool:
        return [shown(each) for each in await slack.slack.thread("C001", ts)] == [WORDS]

    await slack.until(told, "its words, and no status")


async def test_a_stream_that_dies_is_gone_on_with_by_changing_the_message(slack: Workspace, stub: StreamStub) -> None:
    for n in range(_TRIES):
        stub.appends = 1
        ts = await slack.slack.mention("C001", script(slowly(f"{n} {WORDS}", milliseconds=400)))
        await stands_once(slack, "C001", ts, f"{n} {WORDS}")
        if stub.appends < 0:
            return
    raise AssertionError("none has died")


async def test_whatever_slack_does_with_a_stream_its_answer_stands_once(slack: Workspace, stub: StreamStub) -> None:
    faults: list[tuple[str, Fault]] = [
        ("chat.startStream", "fail"),
        ("chat.startStream", "take_and_fail"),
        ("chat.startStream", "limit"),
        ("chat.appendStream", "take_and_fail"),
        ("chat.appendStream", "limit"),
        ("chat.stopStream", "take_and_fail"),
    ]

    async def despite(channel: str, method: str, fault: Fault) -> None:
        due = slack.relay.faults[f"{method} {channel}"] = [fault]
        for _ in range(_TRIES):
            ts = await slack.slack.mention(channel, script(slowly(milliseconds=400)))
            await stands_once(slack, channel, ts)
            if not due:
                return
        raise AssertionError(f"{method} was never asked")

    channels = slack.slack.channels
    await asyncio.gather(*(despite(channels[n], *each) for n, each in enumerate(faults)))
    assert stub.said


@pytest.mark.thorough
async def test_the_front_door_is_killed_in_the_middle_of_streams(slack: Workspace, stub: StreamStub) -> None:
    steps: list[tuple[str, Stage]] = [
        ("chat.startStream", "came"),
        ("chat.startStream", "taken"),
        ("chat.appendStream", "taken"),
        ("chat.stopStream", "taken"),
    ]

    async def hold(channel: str, said: str) -> None:
        ts = await slack.slack.mention(channel, script(slowly(said, milliseconds=400)))
        await stands_once(slack, channel, ts, said)

    with Kills(slack, steps) as kills:
        for turn in range(len(steps) + _TRIES):
            if kills.left:
                await asyncio.gather(*(hold(each, f"turn {turn} {WORDS}") for each in slack.slack.channels[:3]))
    assert not kills.left
    assert stub.said


async def test_what_a_model_did_not_end_is_taken_away(slack: Workspace, stub: StreamStub) -> None:
    for n in range(_TRIES):
        stub.said.clear()
        broken = {**slowly(f"{n} {WORDS}", milliseconds=400), "fail": {"after_chunks": 12, "times": 1}}
        ts = await slack.slack.mention("C001", script(broken))
        await stands_once(slack, "C001", ts, f"{n} {WORDS}")
        if [kind for kind, _ in stub.said].count("start") == 2:
            return
    raise AssertionError("what was not ended was never shown")
