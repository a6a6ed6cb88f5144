"""How often a call is tried, and what it is told when that was enough."""

import asyncio
from contextlib import suppress

import pytest

from sandbox.contract import SandboxError
from tests.support.house import Hands, House, Open
from workflows.limits import MAX_TOOL_CRASHES


@pytest.fixture
async def away(open_house: Open, monkeypatch: pytest.MonkeyPatch) -> Hands:
    """A session whose sandbox is in an engine that does not answer."""
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent/docker.sock")
    hands = Hands(open_house(sandbox="auto"))
    await hands.house.ensure()
    await hands.house.execute("UPDATE sandboxes SET provider = 'docker'")
    return hands


async def test_a_call_outlives_an_engine_that_is_away_for_a_while(
    away: Hands,
) -> None:
    call = await away.dispatch("echo works")
    for _ in range(MAX_TOOL_CRASHES + 1):
        with pytest.raises(SandboxError, match="does not answer"):
            await away.run(call)
    await away.house.execute("UPDATE sandboxes SET provider = 'namespace'")
    state, said = await away.run(call)
    assert (state, said) == ("confirmed", "works")


async def test_a_call_that_has_failed_for_long_is_told_at_what(away: Hands) -> None:
    call = await away.dispatch("echo never")
    with pytest.raises(SandboxError):
        await away.run(call)
    await away.house.execute("UPDATE tool_calls SET troubled_since = troubled_since - interval '10 minutes'")
    state, said = await away.run(call)
    assert state == "refused"
    assert said.startswith("Not run: for 10 minutes every attempt has failed: the Docker engine does not answer")


async def test_a_call_is_not_given_up_for_a_trouble_that_was_over(away: Hands) -> None:
    call = await away.dispatch("echo never")
    with pytest.raises(SandboxError):
        await away.run(call)
    await away.house.execute(
        "UPDATE tool_calls SET troubled_since = troubled_since - interval '10 minutes',"
        " troubled_at = troubled_at - interval '6 minutes'"
    )
    with pytest.raises(SandboxError):
        await away.run(call)


async def test_workers_that_stop_do_not_count_and_the_command_runs_once(hands: Hands) -> None:
    call = await hands.dispatch("echo ran >> effects; until test -e go; do sleep 0.05; done; cat effects")
    for _ in range(MAX_TOOL_CRASHES + 2):
        running = asyncio.create_task(hands.run(call))
        await asyncio.sleep(0.1)
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
    await hands.house.run("touch go")
    assert await Hands(hands.house, worker_id="wrk_next").run(call) == ("confirmed", "ran")


async def test_a_call_whose_workers_die_is_given_up(hands: Hands) -> None:
    call = await hands.dispatch("echo never")
    await hands.house.execute(f"UPDATE tool_calls SET crashes = {MAX_TOOL_CRASHES - 1}")  # noqa: S608
    await hands.house.execute("UPDATE tool_calls SET attempt_open = true, worker_id = 'wrk_dead'")
    state, said = await hands.run(call)
    assert (state, said) == ("refused", "Not run: its worker died 10 times.")


async def test_no_more_calls_run_at_a_time_than_the_host_is_set_to(house: House) -> None:
    hands = Hands(house, max_concurrent=1)
    alone = "mkdir busy && sleep 0.3 && rmdir busy && echo alone"
    calls = [await hands.dispatch(alone) for _ in range(3)]
    assert await asyncio.gather(*map(hands.run, calls)) == [("confirmed", "alone")] * 3
