"""An answer that is shown while it is written stands there once and whole, whatever becomes of its stream."""

from collections.abc import AsyncGenerator

import pytest

from tests.support.client import run, script
from tests.support.emulator import shown
from tests.support.slack import Fault, Workspace
from tests.support.streams import StreamStub

WORDS = " ".join(f"word{n}" for n in range(60))


def slowly(text: str = WORDS, *, milliseconds: int = 200) -> dict[str, object]:
    return {"text": text, "chunk_ms": milliseconds, "chunk_chars": 20}


@pytest.fixture
async def fresh(slack: Workspace) -> AsyncGenerator[Workspace]:
    """A workspace whose front door has yet to learn whether Slack streams."""
    await slack.door.kill()
    yield slack
    await slack.door.kill()


async def stands_once(slack: Workspace, channel: str, thread: str, text: str = WORDS, *, times: int = 1) -> None:
    await slack.answers(channel, thread, times=times, seconds=100)

    async def alone() -> list[str] | None:
        found = [shown(each) for each in await slack.slack.thread(channel, thread)]
        return found if len(found) == times else None

    messages = await slack.until(alone, f"{times} messages and no status")
    assert [each.splitlines()[0] for each in messages].count(text) == 1, messages


async def test_words_come_as_they_are_written(fresh: Workspace) -> None:
    with StreamStub(fresh.relay) as stub:
        ts = await fresh.slack.mention("C001", script(slowly()))
        await stands_once(fresh, "C001", ts)
    kinds = [kind for kind, _ in stub.said]
    assert kinds[0] == "start"
    assert kinds.count("append") >= 2
    assert kinds.count("stop") == 1
    assert WORDS.startswith("".join(said for _, said in stub.said).strip())


async def test_a_stream_that_can_be_changed_no_more_is_followed_by_the_whole_answer(fresh: Workspace) -> None:
    with StreamStub(fresh.relay):
        fresh.relay.declines["chat.update"] = ["edit_window_closed"]
        ts = await fresh.slack.mention("C002", script(slowly()))

        async def whole() -> bool:
            found = [shown(each).splitlines()[0] for each in await fresh.slack.thread("C002", ts)]
            return len(found) == 2 and found[-1] == WORDS

        await fresh.until(whole, "the whole answer behind what was streamed of it")
    assert not fresh.relay.declines["chat.update"]


async def test_what_is_done_after_words_is_shown_again(fresh: Workspace) -> None:
    with StreamStub(fresh.relay):
        steps = [{**slowly(), **run("sleep 8; echo slept")}, {"text": "then {{result}}"}]
        ts = await fresh.slack.mention("C001", script(*steps))

        async def running() -> bool:
            return any("running `sleep 8" in shown(each) for each in await fresh.slack.thread("C001", ts))

        await fresh.until(running, "what it does after its first words")
        await fresh.answers("C001", ts)

        async def told() -> bool:
            found = [shown(each).splitlines()[0] for each in await fresh.slack.thread("C001", ts)]
            return found == [WORDS, "then slept"]

        await fresh.until(told, "its words, what came then, and no status")


async def test_where_nothing_is_streamed_the_answer_comes_whole(fresh: Workspace) -> None:
    ts = await fresh.slack.mention("C001", script(slowly()))
    await stands_once(fresh, "C001", ts)
    tried = [call.method for call in fresh.relay.calls].count("chat.startStream")
    ts = await fresh.slack.mention("C001", script(slowly()))
    await stands_once(fresh, "C001", ts)
    assert [call.method for call in fresh.relay.calls].count("chat.startStream") == tried, "it is not tried again"


async def test_a_stream_that_dies_is_gone_on_with_by_changing_the_message(fresh: Workspace) -> None:
    with StreamStub(fresh.relay, appends=1):
        ts = await fresh.slack.mention("C001", script(slowly()))
        await stands_once(fresh, "C001", ts)


SLOW: list[tuple[str, Fault]] = [
    ("chat.startStream", "fail"),
    ("chat.startStream", "take_and_fail"),
    ("chat.startStream", "limit"),
    ("chat.appendStream", "take_and_fail"),
    ("chat.appendStream", "limit"),
    ("chat.stopStream", "take_and_fail"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("method", "fault"), SLOW)
async def test_whatever_slack_does_with_a_stream(fresh: Workspace, method: str, fault: Fault) -> None:
    with StreamStub(fresh.relay):
        fresh.relay.faults[method] = [fault]
        ts = await fresh.slack.mention("C002", script(slowly()))
        await stands_once(fresh, "C002", ts)
        assert not fresh.relay.faults[method]


@pytest.mark.slow
@pytest.mark.timeout(200)
@pytest.mark.parametrize(
    ("method", "stage"),
    [("chat.startStream", "came"), ("chat.startStream", "taken"), ("chat.appendStream", "taken"),
     ("chat.stopStream", "came"), ("chat.stopStream", "taken")],
)  # fmt: skip
async def test_the_front_door_is_killed_in_the_middle(fresh: Workspace, method: str, stage: str) -> None:
    async def watch(called: str, at: str) -> bool:
        if (called, at) != (method, stage):
            return False
        fresh.relay.watch = None
        await fresh.door.kill()
        return True

    with StreamStub(fresh.relay):
        fresh.relay.watch = watch
        ts = await fresh.slack.mention("C003", script(slowly()))
        await stands_once(fresh, "C003", ts)
        assert fresh.relay.watch is None


@pytest.mark.slow
async def test_what_a_model_did_not_end_is_taken_away(fresh: Workspace) -> None:
    broken = {**slowly(), "fail": {"after_chunks": 12, "times": 1}}
    with StreamStub(fresh.relay) as stub:
        ts = await fresh.slack.mention("C001", script(broken))
        await stands_once(fresh, "C001", ts)
        assert [kind for kind, _ in stub.said].count("start") == 2


async def test_a_secret_does_not_leave_by_halves(fresh: Workspace) -> None:
    token = "ghp_" + "a1B2" * 9
    with StreamStub(fresh.relay) as stub:
        ts = await fresh.slack.mention("C001", script(slowly(f"the token is {token} and so it goes on {WORDS}")))
        (answer,) = await fresh.answers("C001", ts, seconds=100)
    streamed = "".join(said for _, said in stub.said)
    assert "ghp_" not in streamed
    assert "ghp_" not in shown(answer)
    assert "[redacted: " in streamed
