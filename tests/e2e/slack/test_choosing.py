"""A message that waits for somebody to say which agent is to answer is answered, however that is said."""

from collections.abc import AsyncGenerator

import pytest

from tests.support.client import run, script
from tests.support.emulator import buttons, shown
from tests.support.holding import held_back
from tests.support.slack import Workspace

pytestmark = pytest.mark.slow


@pytest.fixture
async def undecided(slack: Workspace) -> AsyncGenerator[Workspace]:
    """A workspace with two agents and nothing that says which one answers."""
    await slack.client.post("/v1/agents", {"name": "another", "model": "scripted/another"})
    async with slack.ruled(agent_id=None):
        yield slack


async def asked(slack: Workspace, channel: str, thread: str) -> None:
    """Wait for the question which agent is to answer."""

    async def there() -> bool:
        return any(buttons(each) for each in await slack.slack.thread(channel, thread))

    await slack.until(there, "the question which agent")


@pytest.mark.parametrize("how", ["use", "named", "default"])
async def test_what_waits_for_an_agent_comes_before_what_names_it(undecided: Workspace, how: str) -> None:
    ts = await undecided.slack.mention("C003", script({"text": "the first"}))
    await asked(undecided, "C003", ts)
    if how == "use":
        await undecided.slack.say("C003", "use another", thread=ts)
        wanted = ["the first"]
    elif how == "named":
        await undecided.slack.say("C003", "agent=another " + script({"text": "the second"}), thread=ts)
        wanted = ["the first", "the second"]
    else:
        agents = (await undecided.client.get("/v1/agents", limit="100"))["data"]
        await undecided.rules(agent_id=next(each["id"] for each in agents if each["name"] == "another"))
        await undecided.slack.say("C003", script({"text": "the second"}), thread=ts)
        wanted = ["the first", "the second"]
    found = [shown(each) for each in await undecided.answers("C003", ts, times=len(wanted))]
    answers = [each for each in found if "scripted/another" in each]
    assert [each.splitlines()[0] for each in answers] == wanted


async def test_who_is_killed_when_an_agent_is_chosen_does_not_stop_what_waited_for_it(undecided: Workspace) -> None:
    ts = await undecided.slack.mention("C003", script(run("sleep 3"), {"text": "the first"}))
    await asked(undecided, "C003", ts)
    async with held_back(undecided) as waiting:
        await undecided.slack.say("C003", "use another", thread=ts)
        await waiting()
        undecided.door.known.kill()
    undecided.door.start()
    await undecided.door.known.ready()
    (answer,) = [shown(each) for each in await undecided.answers("C003", ts) if "scripted/another" in shown(each)]
    assert answer.startswith("the first")
    assert "I have stopped" not in str(await undecided.slack.thread("C003", ts))
    assert not any(buttons(each) for each in await undecided.slack.thread("C003", ts)), "nobody is asked any more"
