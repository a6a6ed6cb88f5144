"""How runs of deployments end: each with the turns of its own inputs, whoever else uses the session."""

from collections.abc import AsyncGenerator
from decimal import Decimal
from typing import Any, get_args

import httpx
import pytest

from controlplane.embedded import api_key
from controlplane.ids import new_id
from controlplane.store import due
from workflows.contracts import TurnEnd, TurnInput, TurnResult
from workflows.failures import failure

from .conftest import WORKSPACE, Api
from .deploying import EVERY_MINUTE, HELLO, Deployer, look, past_the_deadline, priced, scheduler, spend
from .spoiling import (
    archived_budget,
    archived_store,
    archived_vault,
    closed_network,
    deleted_store,
    deleted_vault,
    everything,
    revoked_key,
)

_OF_A_CENT = {"type": "limit", "max_list_cost": {"amount": "1", "currency": "USD"}}


@pytest.fixture
async def deployer(api: Api, http: httpx.AsyncClient) -> AsyncGenerator[Deployer]:
    deployer = Deployer(api, http)
    yield deployer
    await deployer.leave()


async def run(deployer: Deployer, made: dict[str, Any]) -> dict[str, Any]:
    """Run a deployment now."""
    return await deployer.post(f"/v1/deployments/{made['id']}/run")


async def outcomes(deployer: Deployer, made: dict[str, Any]) -> list[str]:
    """Look after the runs, and return what has become of each."""
    await look(deployer.api)
    return [each["outcome"] or each["state"] for each in await deployer.runs(made)]


async def nothing_begins(deployer: Deployer, session_id: str) -> bool:
    """Say whether a brain that looks at the session's queue finds nothing to do."""
    wanted = TurnInput(session_id=session_id, workspace_id=WORKSPACE, turn_id=new_id("turn"))
    begun = await deployer.turns.begin(wanted, worker_id="nobody", task_token=b"")
    return isinstance(begun, TurnResult) and begun.reason == "nothing_to_do"


async def events_of(deployer: Deployer, session_id: str) -> list[dict[str, Any]]:
    """Return a session's events."""
    return (await deployer.http.get(f"/v1/sessions/{session_id}/events")).json()["data"]


async def test_a_run_ends_with_its_own_turn_and_costs_what_that_does(deployer: Deployer):
    made = await deployer.made(session="continue", agent=await priced(deployer, "shared"))
    first, second = await run(deployer, made), await run(deployer, made)
    session_id = first["session_id"]
    assert second["session_id"] == session_id
    turn = await deployer.turn(session_id)
    await spend(deployer, turn, 10)
    await deployer.turns.end(turn, "end_turn")
    assert await outcomes(deployer, made) == ["succeeded", "running"]
    turn = await deployer.turn(session_id)
    await spend(deployer, turn, 20)
    await deployer.turns.end(turn, "refusal")
    await deployer.post(f"/v1/sessions/{session_id}/events", {"events": [HELLO]})
    assert await outcomes(deployer, made) == ["succeeded", "failed"], "what a person says there is none of it"
    assert [Decimal(each["cost_usd"]) for each in await deployer.runs(made)] == [Decimal("0.01"), Decimal("0.02")]


async def test_a_deadline_stops_no_turn_but_its_own(deployer: Deployer):
    made = await deployer.made(session="continue", deadline="1h")
    first, second = await run(deployer, made), await run(deployer, made)
    session_id = first["session_id"]
    turn = await deployer.turn(session_id)
    await past_the_deadline(deployer, second)
    assert await outcomes(deployer, made) == ["running", "deadline_exceeded"]
    assert "user.interrupt" not in [each["type"] for each in await events_of(deployer, session_id)]
    await deployer.turns.end(turn, "end_turn")
    assert await outcomes(deployer, made) == ["succeeded", "deadline_exceeded"]
    assert await nothing_begins(deployer, session_id), "its input was withdrawn"
    await deployer.post(f"/v1/sessions/{session_id}/events", {"events": [HELLO]})
    assert len((await deployer.turn(session_id)).history) == 2, "what was withdrawn is no part of what is said"


@pytest.mark.parametrize("how", ["interrupt", "stop"])
async def test_what_somebody_stops_is_cancelled_and_does_not_go_on(deployer: Deployer, how: str):
    made = await deployer.made(pause_on_failure=1, initial_events=[HELLO, HELLO])
    session_id = (await deployer.outcome(made, deployer.minutes_ago(1)))["session_id"]
    turn = await deployer.turn(session_id)
    if how == "stop":
        await deployer.post("/v1/live/stop", {"session_id": session_id, "wait_seconds": 0})
    else:
        await deployer.post(f"/v1/sessions/{session_id}/events", {"events": [{"type": "user.interrupt"}]})
    assert await deployer.turns.is_interrupted(turn)
    assert not (await deployer.turns.end(turn, "interrupted")).more, "the second message is withdrawn with the first"
    assert await outcomes(deployer, made) == ["cancelled"]
    after = await deployer.get(made)
    assert (after["status"], after["failures"]) == ("active", 0)


@pytest.mark.parametrize("end", [each for each in get_args(TurnEnd) if each not in ("gone", "nothing_to_do")])
async def test_a_run_has_the_outcome_of_its_last_turn(deployer: Deployer, end: TurnEnd):
    made = await deployer.made(initial_events=[HELLO, HELLO])
    first = await run(deployer, made)
    await deployer.rest(first)
    assert await outcomes(deployer, made) == ["running"]
    await deployer.rest(first, end)
    # No budget is spent here: so a turn that rests for one goes on in a second.
    wanted = {"end_turn": "succeeded", "interrupted": "cancelled", "requires_action": "running",
              "budget_reached": "running"}.get(end, "failed")  # fmt: skip
    assert await outcomes(deployer, made) == [wanted]


async def test_a_deadline_stops_what_was_to_be_tried_again(deployer: Deployer):
    made = await deployer.made(deadline="1h")
    first = await run(deployer, made)
    await deployer.rest(first, "retries_exhausted")
    await deployer.post(f"/v1/sessions/{first['session_id']}/resume")
    assert await outcomes(deployer, made) == ["running"]
    await past_the_deadline(deployer, first)
    assert await outcomes(deployer, made) == ["deadline_exceeded"]
    assert await nothing_begins(deployer, first["session_id"])


async def test_a_frozen_agents_run_goes_on_when_it_thaws(deployer: Deployer):
    made = await deployer.made(session="continue")
    first, _ = await run(deployer, made), await run(deployer, made)
    turn = await deployer.turn(first["session_id"])
    path = f"/v1/agents/{made['agent']['id']}"
    await deployer.post(f"{path}/freeze")
    await deployer.turns.end(turn, "retries_exhausted", failure=failure("agent_frozen", "it is frozen"))
    assert await outcomes(deployer, made) == ["running", "running"]
    await deployer.post(f"{path}/thaw")
    await deployer.rest(first)
    assert await outcomes(deployer, made) == ["succeeded", "running"]
    await deployer.rest(first)
    assert await outcomes(deployer, made) == ["succeeded", "succeeded"]


async def test_what_a_spent_session_has_not_begun_is_withdrawn_and_no_more_is_added(deployer: Deployer):
    made = await deployer.made(session="continue", budget=_OF_A_CENT, agent=await priced(deployer, "spent"))
    first = await run(deployer, made)
    for _ in range(3):
        await run(deployer, made)
    turn = await deployer.turn(first["session_id"])
    await spend(deployer, turn, 10)
    await deployer.turns.end(turn, "budget_reached")
    assert await outcomes(deployer, made) == ["failed"] * 4
    assert "budget_reached" in (await deployer.runs(made))[-1]["detail"]
    manual = await run(deployer, made)
    assert (manual["session_id"], manual["error"]["code"]) == (None, "budget_reached")
    assert (await deployer.outcome(made, deployer.minutes_ago(1)))["error"]["type"] == "unknown_error"
    assert (await deployer.get(made))["paused_reason"]["error"]["code"] == "budget_reached"
    # With more, what had begun goes on, and none of what was recorded as failed.
    larger = {"type": "limit", "max_list_cost": {"amount": "1000", "currency": "USD"}}
    await deployer.post(f"/v1/sessions/{first['session_id']}/resume", {"budget": larger})
    await deployer.rest(first)
    assert await nothing_begins(deployer, first["session_id"])
    await run(deployer, made)
    await deployer.rest(first)
    assert (await outcomes(deployer, made))[-1] == "succeeded"


async def test_after_a_spent_day_the_next_run_does_not_wait_for_the_one_that_failed(deployer: Deployer):
    budget = (await deployer.post("/v1/budgets", {"name": "d", "period": "day", "max_cost_usd": "0.01"}))["id"]
    made = await deployer.made(session="continue", budget_ids=[budget], agent=await priced(deployer, "daily"))
    first = await run(deployer, made)
    turn = await deployer.turn(first["session_id"])
    await spend(deployer, turn, 10)
    await deployer.turns.end(turn, "budget_reached")
    assert await outcomes(deployer, made) == ["failed"]
    await deployer.execute("DELETE FROM budget_spending WHERE budget_id = %s", budget)  # as on the next day
    assert await nothing_begins(deployer, first["session_id"]), "what has failed is not tried again by itself"
    second = await run(deployer, made)
    assert second["session_id"] == first["session_id"]
    await deployer.rest(second)
    assert await outcomes(deployer, made) == ["failed", "succeeded"]


async def test_every_firing_within_the_window_has_its_run_however_many_they_are(deployer: Deployer):
    made = await deployer.made(schedule={**EVERY_MINUTE, "catchup_window": "1d"})
    await absent_for(deployer, made, 150)
    yearly = {"type": "cron", "expression": "0 0 29 2 *", "timezone": "UTC"}
    answer = await deployer.http.post(f"/v1/deployments/{made['id']}", json={"schedule": yearly})
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "firings_due")
    background = await scheduler(deployer.api)
    await background.make_up(due.Due(id=made["id"], workspace_id=WORKSPACE))
    assert len(await deployer.runs(made)) == 100
    await background.make_up(due.Due(id=made["id"], workspace_id=WORKSPACE))
    runs = await deployer.runs(made)
    assert len(runs) in (150, 151, 152)
    assert [each["outcome"] for each in runs] == [None, *["skipped"] * (len(runs) - 1)]
    await deployer.post(f"/v1/deployments/{made['id']}", {"schedule": yearly})


async def test_of_what_came_too_late_the_latest_hundred_are_recorded(deployer: Deployer):
    made = await deployer.made(schedule={**EVERY_MINUTE, "catchup_window": "10m"})
    await absent_for(deployer, made, 150)
    background = await scheduler(deployer.api)
    for _ in range(2):
        await background.make_up(due.Due(id=made["id"], workspace_id=WORKSPACE))
    assert [each["outcome"] for each in await deployer.runs(made)].count("missed") == 100


async def test_pausing_records_all_that_was_due_and_all_that_waited(deployer: Deployer):
    made = await deployer.made(schedule={**EVERY_MINUTE, "overlap": "buffer_one", "catchup_window": "1d"})
    for count in (153, 152):
        await deployer.fire(made, deployer.minutes_ago(count))
    await absent_for(deployer, made, 150)
    await deployer.post(f"/v1/deployments/{made['id']}/pause")
    found = await outcomes(deployer, made)
    assert found == ["running", *["cancelled"] * (len(found) - 1)]
    assert len(found) in (153, 154)
    await deployer.post(f"/v1/deployments/{made['id']}/unpause")
    assert await outcomes(deployer, made) == found


@pytest.mark.parametrize("overlap", ["allow", "cancel_other", "skip"])
async def test_a_backfill_runs_one_after_the_other_whatever_may_overlap(deployer: Deployer, overlap: str):
    made = await deployer.made(schedule={**EVERY_MINUTE, "overlap": overlap})
    wanted = {"start_at": deployer.minutes_ago(5).isoformat(), "end_at": deployer.minutes_ago(3).isoformat()}
    await deployer.post(f"/v1/deployments/{made['id']}/backfill", wanted)
    for done in range(3):
        assert await outcomes(deployer, made) == ["succeeded"] * done + ["running"] + ["waiting"] * (2 - done)
        await deployer.rest((await deployer.runs(made))[done])
    assert await outcomes(deployer, made) == ["succeeded"] * 3


async def test_what_comes_on_time_takes_the_place_of_what_runs_and_not_of_what_waits(deployer: Deployer):
    made = await deployer.made(schedule={**EVERY_MINUTE, "overlap": "cancel_other"})
    wanted = {"start_at": deployer.minutes_ago(5).isoformat(), "end_at": deployer.minutes_ago(4).isoformat()}
    await deployer.post(f"/v1/deployments/{made['id']}/backfill", wanted)
    await deployer.fire(made, deployer.minutes_ago(1))
    assert await outcomes(deployer, made) == ["cancelled", "waiting", "running"]


async def test_a_run_that_waited_says_the_agent_that_it_began_with(deployer: Deployer):
    made = await deployer.made(schedule={**EVERY_MINUTE, "overlap": "buffer_one"})
    first = await deployer.outcome(made, deployer.minutes_ago(2))
    await deployer.fire(made, deployer.minutes_ago(1))
    await deployer.post(f"/v1/agents/{made['agent']['id']}", {"version": 1, "name": "another"})
    await deployer.post(f"/v1/deployments/{made['id']}", {"agent": made["agent"]["id"]})
    await deployer.rest(first)
    assert await outcomes(deployer, made) == ["succeeded", "running"]
    second = (await deployer.runs(made))[1]
    session = (await deployer.http.get(f"/v1/sessions/{second['session_id']}")).json()
    assert second["agent"]["version"] == session["agent"]["version"] == 2


async def test_who_gets_another_first_key_keeps_the_deployments(deployer: Deployer, tmp_path: Any):
    await api_key.provision(deployer.api.database, tmp_path / "key", "the-first-key-of-all")
    body = await deployer.body(schedule=EVERY_MINUTE)
    headers = {"x-api-key": "the-first-key-of-all"}
    async with httpx.AsyncClient(base_url=deployer.api.url, headers=headers) as first:
        made = (await first.post("/v1/deployments", json=body)).json()
    await api_key.provision(deployer.api.database, tmp_path / "key", "the-second-key-of-all")
    assert (await deployer.outcome(made, deployer.minutes_ago(1)))["state"] == "running"
    async with httpx.AsyncClient(base_url=deployer.api.url, headers={"x-api-key": "the-second-key-of-all"}) as other:
        keys = {each["id"] for each in (await other.get("/v1/api_keys")).json()["data"]}
    assert (await deployer.get(made))["created_by"] in keys - {made["created_by"]}


async def absent_for(deployer: Deployer, made: dict[str, Any], minutes: int) -> None:
    """Have nobody fire a deployment for so long."""
    await deployer.execute(
        "UPDATE deployments SET next_at = %s WHERE id = %s", deployer.minutes_ago(minutes), made["id"]
    )


async def test_the_rights_of_now_count_in_a_session_that_goes_on(deployer: Deployer):
    made = await everything(deployer, "continue")
    first = await run(deployer, made)
    await deployer.rest(first)
    assert await outcomes(deployer, made) == ["succeeded"]
    # From what is looked at last to what is looked at first; a person's runs pause nothing.
    for kind, spoil in (
        ("memory_store_archived_error", archived_store),
        ("session_resource_not_found_error", deleted_store),
        ("session_creation_rejected_error", archived_budget),
        ("vault_archived_error", archived_vault),
        ("vault_not_found_error", deleted_vault),
        ("mcp_egress_blocked_error", closed_network),
        ("unknown_error", revoked_key),
    ):
        await spoil(deployer, made)
        found = await run(deployer, made)
        assert (found["outcome"], found["session_id"], found["error"]["type"]) == ("failed", None, kind)
