"""Many conversations at once, each checked by reading its channel back."""

import asyncio
import statistics
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from tests.support.client import run, script
from tests.support.emulator import ALICE, BOB, CAROL, shown
from tests.support.published import Published
from tests.support.slack import Mode, Relay, Workspace, footed, workspace
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
@pytest.mark.thorough
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
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("threads", "limited"),
    [(1, False), (10, False), (10, True)],
    ids=["one thread each", "as fast as it can", "within Slack's published limits"],
)
async def test_twenty_channels_of_ten_threads_lose_nothing(
    stack: Stack, tmp_path: Path, *, in_full: bool, threads: int, limited: bool
) -> None:
    if not in_full:
        pytest.skip("part of `make soak`")
    async with workspace(stack, tmp_path, "events", channels=20) as opened:
        opened.relay.published = Published() if limited else None
        asked = [(channel, n) for n in range(threads) for channel in opened.slack.channels]
        begun = await asyncio.gather(
            *(opened.slack.mention(channel, script({"text": f"answer {n} of {channel}."})) for channel, n in asked)
        )
        # The emulator tells each event once, and gives up after some seconds: Slack would tell it again.
        wanted = {
            (channel, thread): f"answer {n} of {channel}."
            for (channel, n), thread in zip(asked, begun, strict=True)
            if thread in opened.relay.told_at
        }
        print(f"\nthe emulator told {len(wanted)} of {len(begun)} messages")
        assert len(wanted) > len(begun) * 0.9

        async def all_there() -> bool:
            found = [each for channel in opened.slack.channels for each in await opened.slack.messages(channel)]
            return sum(map(footed, found)) >= len(wanted) and len(acknowledged(opened.relay)) >= len(wanted)

        await opened.until(all_there, "all answers and signs", seconds=420, pause_seconds=2)
        for (channel, thread), said in wanted.items():
            found = [shown(each) for each in await opened.slack.thread(channel, thread) if footed(each)]
            assert [each.splitlines()[0] for each in found] == [said]
        print(report(opened.relay))
        posts = [call for call in opened.relay.calls if call.method == "chat.postMessage"]
        # Two that leave a second apart may arrive closer; what is refused is sent again.
        assert sum(call.status == 429 for call in posts) <= len(posts) // 20, "more than a message a second"


def acknowledged(relay: Relay) -> dict[str, float]:
    """Return after how many seconds each message had its sign."""
    found: dict[str, float] = {}
    for call in relay.calls:
        if call.method == "reactions.add" and call.status == 200:
            found.setdefault(call.message, call.at - relay.told_at[call.message])
    return found


def report(relay: Relay) -> str:
    """Return what people saw of it, channel by channel, and how often Slack said that it was too much."""
    answered: dict[tuple[str, str], float] = {}
    posts = defaultdict[str, list[float]](list)
    for call in relay.calls:
        if call.method == "chat.postMessage" and call.status == 200:
            answered[call.place, call.thread] = call.at - relay.told_at[call.thread]
            posts[call.place].append(call.at)
    of_channels = defaultdict[str, list[float]](list)
    for (place, _), seconds in answered.items():
        of_channels[place].append(seconds)
    medians = [statistics.median(each) for each in of_channels.values()]
    rates = [(len(at) - 1) / (at[-1] - at[0]) for at in posts.values() if len(at) > 1]
    refused = Counter(call.method for call in relay.calls if call.status == 429)
    calls = Counter(call.method for call in relay.calls)
    return (
        f"\n{len(answered)} threads in {len(posts)} channels"
        f"\nacknowledged: {_spread([*acknowledged(relay).values()])}"
        f"\nanswered: {_spread([*answered.values()])}"
        f"\nfairness, the channels' median times to the answer: {_spread(medians)};"
        f" max/median {max(medians) / statistics.median(medians):.2f}"
        f"\nmessages a second and channel: at most {max(rates, default=0.0):.2f}, of which Slack takes 1"
        f"\nrefused with 429: {dict(refused)} of {dict(calls)}"
    )


def _spread(seconds: list[float]) -> str:
    at = sorted(seconds)
    return f"p50 {at[len(at) // 2]:.2f} s, p95 {at[len(at) * 95 // 100]:.2f} s, max {at[-1]:.2f} s"
