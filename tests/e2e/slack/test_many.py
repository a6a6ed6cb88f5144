"""Many conversations at once, each checked by reading its channel back."""

import asyncio
import itertools
from collections import defaultdict
from pathlib import Path

import pytest

from tests.support.client import run, script
from tests.support.emulator import ALICE, BOB, CAROL, shown
from tests.support.slack import Mode, Workspace, workspace
from tests.support.stack import Stack

PEOPLE = (ALICE, BOB, CAROL)


async def converse(slack: Workspace, channel: str, name: str, *, turns: int, commands: bool) -> None:
    """Hold a conversation, and see that each answer stands in its thread once and in order."""
    said = [f"answer {turn} of {name}." for turn in range(turns)]
    thread: str | None = None
    for turn, each in enumerate(said):
        steps = [run(f"echo {name}-{turn}"), {"text": f"{each} {{{{result}}}}"}] if commands else [{"text": each}]
        told = script(*steps)
        person = PEOPLE[turn % len(PEOPLE)]
        if thread is None:
            thread = await slack.slack.mention(channel, told, user=person)
        else:
            await slack.slack.say(channel, told, user=person, thread=thread)
        await slack.answers(channel, thread, times=turn + 1, seconds=400)
    assert thread is not None
    found = [shown(each) for each in await slack.answers(channel, thread, times=turns, seconds=400)]
    assert [each.split(".")[0] + "." for each in found if each.startswith("answer")] == said
    if commands:
        assert all(f"{name}-{turn}" in found[turn] for turn in range(turns))


@pytest.mark.slow
@pytest.mark.timeout(500)
@pytest.mark.parametrize("mode", ["events", "socket"])
async def test_forty_conversations_stand_in_their_threads(stack: Stack, tmp_path: Path, mode: Mode) -> None:
    async with workspace(stack, tmp_path, mode, channels=10) as opened:
        talks = [
            converse(opened, opened.slack.channels[n % 10], f"{mode}{n}", turns=1 + n % 2, commands=n % 8 == 0)
            for n in range(40)
        ]
        await asyncio.gather(*talks)


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_twenty_channels_of_ten_threads_lose_nothing_within_the_limits(
    stack: Stack, tmp_path: Path, *, in_full: bool
) -> None:
    if not in_full:
        pytest.skip("part of `make soak`")
    async with workspace(stack, tmp_path, "events", channels=20) as opened:
        loop = asyncio.get_running_loop()
        began, ended = loop.time(), dict[tuple[str, int], float]()

        async def one(channel: str, n: int) -> None:
            await converse(opened, channel, f"{channel}t{n}", turns=1, commands=False)
            ended[channel, n] = loop.time() - began

        await asyncio.gather(*(one(channel, n) for channel in opened.slack.channels for n in range(10)))
        posts = defaultdict[str, list[float]](list)
        for call in opened.relay.calls:
            if call.method == "chat.postMessage":
                posts[call.place].append(call.at)
        gaps = [later - earlier for at in posts.values() for earlier, later in itertools.pairwise(at)]
        last = [max(each for (place, _), each in ended.items() if place == channel) for channel in posts]
        seen = sorted(
            call.at - opened.relay.told_at[call.message]
            for call in opened.relay.calls
            if call.method == "reactions.add"
        )
        print(
            f"\n200 threads: the last answer after {max(ended.values()):.1f} s, the median after"
            f" {sorted(ended.values())[100]:.1f} s; of a channel the last after {min(last):.1f} to {max(last):.1f} s;"
            f" between two messages to a channel {sorted(gaps)[len(gaps) // 100]:.2f} s at the first percentile,"
            f" {sorted(gaps)[len(gaps) // 2]:.2f} s in the median; {len(opened.relay.calls)} calls;"
            f" acknowledged after {seen[len(seen) // 2]:.2f} s in the median, {seen[-1]:.2f} s at the latest"
        )
        assert len(ended) == 200
        assert all(len(at) <= at[-1] - at[0] + 2 for at in posts.values()), "more than a message a second"
