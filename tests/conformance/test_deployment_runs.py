"""Firings of deployments: their runs, what overlaps, what comes too late, and each error that a run can have."""

import asyncio
from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from anthropic import AsyncAnthropic
from pydantic import ValidationError

from controlplane.store import deployments, due
from controlplane.store.pool import ALL_WORKSPACES
from workflows.contracts import TurnEnd

from .conftest import WORKSPACE, Api
from .deploying import EVERY_MINUTE, HELLO, Deployer, look, past_the_deadline, scheduler
from .spoiling import (
    archived_agent,
    archived_budget,
    archived_environment,
    archived_store,
    archived_vault,
    closed_network,
    deleted_environment,
    deleted_file,
    deleted_store,
    deleted_vault,
    everything,
    revoked_key,
    spent_budget,
)

pytestmark = pytest.mark.slow


@pytest.fixture
async def deployer(api: Api, http: httpx.AsyncClient) -> AsyncGenerator[Deployer]:
    deployer = Deployer(api, http)
    yield deployer
    await deployer.leave()


async def test_a_firing_has_one_run_however_often_and_by_whomever_it_is_fired(deployer: Deployer):
    made = await deployer.made(schedule={**EVERY_MINUTE, "overlap": "allow"})
    at = deployer.minutes_ago(1)
    await asyncio.gather(*(deployer.fire(made, at) for _ in range(6)))
    [run] = await deployer.runs(made)
    assert run["trigger_context"]["scheduled_at"] == at.isoformat().replace("+00:00", "Z")
    assert (run["state"], run["error"]) == ("running", None)
    assert 0 < run["lateness_seconds"] < 600
    sessions = (await deployer.http.get("/v1/sessions", params={"deployment_id": made["id"]})).json()["data"]
    assert [session["id"] for session in sessions] == [run["session_id"]]


async def test_the_sdk_reads_runs(client: AsyncAnthropic, deployer: Deployer):
    made = await deployer.made()
    await deployer.fire(made, deployer.minutes_ago(2))
    await deployer.fire(made, deployer.minutes_ago(1))
    found = [run async for run in client.beta.deployment_runs.list(deployment_id=made["id"])]
    assert [run.trigger_context.type for run in found] == ["schedule", "schedule"]
    failed = [run async for run in client.beta.deployment_runs.list(deployment_id=made["id"], has_error=True)]
    assert len(failed) == 1  # the second was skipped
    manual = [run async for run in client.beta.deployment_runs.list(deployment_id=made["id"], trigger_type="manual")]
    assert manual == []


@pytest.mark.parametrize("change", ["not a time of it", "paused", "archived", "another schedule"])
async def test_what_the_schedule_has_no_more_does_not_fire(deployer: Deployer, change: str):
    made = await deployer.made()
    path = f"/v1/deployments/{made['id']}"
    at = deployer.minutes_ago(1)
    if change == "not a time of it":
        at += timedelta(seconds=7)
    elif change == "another schedule":
        await deployer.post(path, {"schedule": {**EVERY_MINUTE, "expression": "0 0 29 2 *"}})
    else:
        await deployer.post(f"{path}/{change.removesuffix('d')}")
    await deployer.fire(made, at)
    assert await deployer.runs(made) == []


async def test_skip_leaves_a_record_of_what_it_leaves_out(deployer: Deployer):
    made = await deployer.made()
    first = await deployer.outcome(made, deployer.minutes_ago(3))
    second = await deployer.outcome(made, deployer.minutes_ago(2))
    assert (second["outcome"], second["error"]["code"], second["session_id"]) == ("skipped", "run_skipped", None)
    await deployer.rest(first)
    await look(deployer.api)
    third = await deployer.outcome(made, deployer.minutes_ago(1))
    assert third["state"] == "running"


async def test_buffer_one_lets_one_wait_which_begins_when_the_first_has_ended(deployer: Deployer):
    made = await deployer.made(schedule={**EVERY_MINUTE, "overlap": "buffer_one"})
    first = await deployer.outcome(made, deployer.minutes_ago(3))
    second = await deployer.outcome(made, deployer.minutes_ago(2))
    third = await deployer.outcome(made, deployer.minutes_ago(1))
    assert [run["state"] for run in (first, second, third)] == ["running", "waiting", "ended"]
    assert third["outcome"] == "skipped"
    await deployer.rest(first)
    await look(deployer.api)
    runs = await deployer.runs(made)
    assert [run["outcome"] or run["state"] for run in runs] == ["succeeded", "running", "skipped"]


async def test_cancel_other_stops_the_one_before(deployer: Deployer):
    made = await deployer.made(schedule={**EVERY_MINUTE, "overlap": "cancel_other"})
    first = await deployer.outcome(made, deployer.minutes_ago(2))
    await deployer.post(f"/v1/sessions/{first['session_id']}/events", {"events": [HELLO]})
    await deployer.turn(first["session_id"])
    second = await deployer.outcome(made, deployer.minutes_ago(1))
    assert second["state"] == "running"
    assert (await deployer.runs(made))[0]["outcome"] == "cancelled"
    events = (await deployer.http.get(f"/v1/sessions/{first['session_id']}/events")).json()["data"]
    assert [event["type"] for event in events if event["type"].startswith("user.")] == [
        "user.message", "user.message", "user.interrupt"
    ]  # fmt: skip
    assert events[1]["processed_at"] is None, "what somebody else said is none of the run's"


async def test_allow_lets_all_run(deployer: Deployer):
    made = await deployer.made(schedule={**EVERY_MINUTE, "overlap": "allow"})
    for count in (3, 2, 1):
        await deployer.fire(made, deployer.minutes_ago(count))
    assert {run["state"] for run in await deployer.runs(made)} == {"running"}


async def test_a_firing_beyond_the_window_is_recorded_as_missed(deployer: Deployer):
    made = await deployer.made(schedule={**EVERY_MINUTE, "catchup_window": 300})
    late = await deployer.outcome(made, deployer.minutes_ago(7))
    assert (late["outcome"], late["error"]["code"]) == ("missed", "run_missed")
    assert (await deployer.outcome(made, deployer.minutes_ago(3)))["state"] == "running"


@pytest.mark.parametrize(("window", "missed"), [("10m", 10), ("2h", 0)])
async def test_after_an_hours_absence_all_twelve_firings_are_accounted_for(
    deployer: Deployer, window: str, missed: int
):
    every_five = {**EVERY_MINUTE, "expression": "*/5 * * * *", "overlap": "allow", "catchup_window": window}
    made = await deployer.made(schedule=every_five)
    now = datetime.now(UTC).replace(second=0, microsecond=0)
    latest = now - timedelta(minutes=now.minute % 5)
    if datetime.now(UTC) - latest < timedelta(seconds=20):
        latest -= timedelta(minutes=5)  # this one is not given up as lost yet
    await deployer.execute(
        "UPDATE deployments SET next_at = %s, schedule = schedule || jsonb_build_object('ends_at', %s::text)"
        " WHERE id = %s",
        latest - timedelta(minutes=55),
        latest.isoformat(),  # the next may come while we look
        made["id"],
    )
    background = await scheduler(deployer.api)
    # Two of them, as after a rolling restart; and again, as after a kill.
    mine = due.Due(id=made["id"], workspace_id=WORKSPACE)
    await asyncio.gather(background.make_up(mine), (await scheduler(deployer.api)).make_up(mine))
    await background.make_up(mine)
    runs = await deployer.runs(made)
    assert len(runs) == 12
    outcomes = [run["outcome"] or run["state"] for run in runs]
    # The boundary of the window may fall between two looks at the clock.
    assert abs(outcomes.count("missed") - missed) <= min(missed, 1)
    assert outcomes == sorted(outcomes), "the latest are made up for"
    async with deployer.api.database.transaction(ALL_WORKSPACES) as connection:
        waiting = await due.neglected(connection, older_than=timedelta(0))
    assert made["id"] not in [each.id for each in waiting]


async def absent(deployer: Deployer, made: dict[str, Any], *, since: datetime) -> None:
    """Have nobody fire a deployment since then."""
    await deployer.execute("UPDATE deployments SET next_at = %s WHERE id = %s", since, made["id"])


@pytest.mark.parametrize("jitter", [0, 3600])
async def test_a_change_of_the_schedule_loses_nothing_that_was_due(deployer: Deployer, jitter: int):
    made = await deployer.made(schedule={**EVERY_MINUTE, "catchup_window": 150, "jitter": jitter})
    await absent(deployer, made, since=deployer.minutes_ago(5))
    yearly = {"type": "cron", "expression": "0 0 29 2 *", "timezone": "UTC"}
    path = f"/v1/deployments/{made['id']}"
    changed = await deployer.post(path, {"schedule": yearly})
    assert changed["schedule"]["upcoming_runs_at"][0].startswith("2028-02-29")
    runs = await deployer.runs(made)
    times = [datetime.fromisoformat(run["trigger_context"]["scheduled_at"]) for run in runs]
    assert times[:6] == [deployer.minutes_ago(count) for count in (5, 4, 3, 2, 1, 0)]
    began = [index for index, run in enumerate(runs) if run["state"] == "running"]
    assert [run["outcome"] for run in runs[: began[0]]] == ["missed"] * began[0]
    assert (began[0] == 0) == (jitter > 0)
    assert {run["outcome"] for run in runs[began[0] + 1 :]} == {"skipped"}
    assert runs[began[0]]["session_id"] in [session_id for session_id, _ in deployer.api.submitter.told]
    await deployer.fire(made, deployer.minutes_ago(1))
    await deployer.post(path, {"schedule": yearly})
    assert len(await deployer.runs(made)) == len(runs), "again: all of them have one"


@pytest.mark.parametrize("how", ["pause", "archive"])
async def test_what_was_due_when_somebody_stops_a_deployment_is_recorded_and_does_not_begin(
    deployer: Deployer, how: str
):
    made = await deployer.made()
    await absent(deployer, made, since=deployer.minutes_ago(2))
    await deployer.post(f"/v1/deployments/{made['id']}/{how}")
    runs = await deployer.runs(made)
    assert len(runs) in (3, 4)
    assert {(run["outcome"], run["session_id"]) for run in runs} == {("cancelled", None)}


async def test_what_was_due_when_a_run_pauses_its_deployment_is_recorded(deployer: Deployer):
    made = await deployer.made()
    await archived_environment(deployer, made)
    await absent(deployer, made, since=deployer.minutes_ago(3))
    await (await scheduler(deployer.api)).make_up(due.Due(id=made["id"], workspace_id=WORKSPACE))
    outcomes = [run["outcome"] for run in await deployer.runs(made)]
    assert outcomes[0] == "failed"
    assert outcomes[1:4] == ["cancelled"] * 3


async def test_two_that_make_up_for_an_absence_leave_the_next_time_due(deployer: Deployer):
    made = await deployer.made()
    before = (await deployer.get(made))["schedule"]["upcoming_runs_at"][0]
    await (await scheduler(deployer.api)).make_up(due.Due(id=made["id"], workspace_id=WORKSPACE))
    async with deployer.api.database.transaction(WORKSPACE) as connection:
        record = await deployments.get(connection, made["id"])
    assert record.next_at == datetime.fromisoformat(before)


async def test_after_max_runs_nothing_fires(deployer: Deployer):
    made = await deployer.made(schedule={**EVERY_MINUTE, "overlap": "allow", "max_runs": 2})
    for count in (4, 3, 2, 1):
        await deployer.fire(made, deployer.minutes_ago(count))
    assert len(await deployer.runs(made)) == 2
    assert (await deployer.get(made))["schedule"]["upcoming_runs_at"] == []


async def test_another_schedule_counts_its_runs_anew_and_the_same_one_does_not(deployer: Deployer):
    once = {**EVERY_MINUTE, "overlap": "allow", "max_runs": 1}
    made = await deployer.made(schedule=once)
    path = f"/v1/deployments/{made['id']}"
    await deployer.fire(made, deployer.minutes_ago(4))
    same = await deployer.post(path, {"schedule": once})
    assert (same["schedule"]["runs_started"], same["schedule"]["upcoming_runs_at"]) == (1, [])
    changed = await deployer.post(path, {"schedule": {**once, "max_runs": 2}})
    assert (changed["schedule"]["runs_started"], len(changed["schedule"]["upcoming_runs_at"])) == (0, 2)
    for count in (3, 2, 1):
        await deployer.fire(made, deployer.minutes_ago(count))
    assert len(await deployer.runs(made)) == 3


async def test_beyond_its_deadline_a_run_is_interrupted(deployer: Deployer):
    made = await deployer.made(deadline="1h", pause_on_failure=1)
    run = await deployer.outcome(made, deployer.minutes_ago(1))
    await deployer.turn(run["session_id"])
    await deployer.post(f"/v1/deployments/{made['id']}", {"deadline": 1})
    await look(deployer.api)
    assert (await deployer.runs(made))[0]["state"] == "running", "it goes by the deadline that it began with"
    await past_the_deadline(deployer, run)
    await look(deployer.api)
    assert (await deployer.runs(made))[0]["outcome"] == "deadline_exceeded"
    events = (await deployer.http.get(f"/v1/sessions/{run['session_id']}/events")).json()["data"]
    assert events[-1]["type"] == "user.interrupt"
    assert (await deployer.get(made))["paused_reason"]["error"]["code"] == "too_many_failures"


async def test_failures_in_a_row_pause_and_a_success_forgives_them(deployer: Deployer):
    made = await deployer.made(pause_on_failure=2)
    stops: list[TurnEnd] = ["retries_exhausted", "end_turn", "refusal", "retries_exhausted"]
    for count, stop in zip((5, 4, 3, 2), stops, strict=True):
        run = await deployer.outcome(made, deployer.minutes_ago(count))
        assert (await deployer.get(made))["status"] == "active"
        await deployer.rest(run, stop)
        await look(deployer.api)
    assert (await deployer.get(made))["status"] == "paused"
    assert [run["outcome"] for run in await deployer.runs(made)] == ["failed", "succeeded", "failed", "failed"]
    assert (await deployer.post(f"/v1/deployments/{made['id']}/unpause"))["failures"] == 0


async def test_a_run_that_goes_on_while_it_is_being_ended_is_left_alone(deployer: Deployer):
    made = await deployer.made()
    run = await deployer.outcome(made, deployer.minutes_ago(1))
    await deployer.rest(run, "retries_exhausted")
    async with deployer.api.database.transaction(ALL_WORKSPACES) as connection:
        [rested] = [each for each in await due.rested(connection) if each.run_id == run["id"]]
    await deployer.post(f"/v1/sessions/{run['session_id']}/resume")
    await deployer.turn(run["session_id"])
    await (await scheduler(deployer.api)).end(rested)
    assert (await deployer.runs(made))[0]["state"] == "running"


async def test_what_waits_for_a_person_has_not_ended(deployer: Deployer):
    made = await deployer.made()
    run = await deployer.outcome(made, deployer.minutes_ago(1))
    await deployer.rest(run, "requires_action")
    await look(deployer.api)
    assert (await deployer.runs(made))[0]["state"] == "running"


async def test_a_run_goes_on_in_the_session_of_the_one_before(deployer: Deployer):
    made = await deployer.made(session="continue")
    first = await deployer.outcome(made, deployer.minutes_ago(4))
    await deployer.rest(first)
    await look(deployer.api)
    second = await deployer.outcome(made, deployer.minutes_ago(3))
    assert second["session_id"] == first["session_id"] == (await deployer.get(made))["session_id"]
    events = (await deployer.http.get(f"/v1/sessions/{first['session_id']}/events")).json()["data"]
    assert [event["type"] for event in events].count("user.message") == 2
    await deployer.rest(second)
    await look(deployer.api)
    await deployer.post(f"/v1/sessions/{first['session_id']}/archive")
    third = await deployer.outcome(made, deployer.minutes_ago(2))
    assert third["session_id"] not in (None, first["session_id"]), "an archived one takes nothing; a new one begins"


async def test_a_backfill_runs_what_has_no_run_one_after_the_other(deployer: Deployer):
    made = await deployer.made()
    fired = await deployer.outcome(made, deployer.minutes_ago(3))
    await deployer.rest(fired)
    await look(deployer.api)
    path = f"/v1/deployments/{made['id']}/backfill"
    wanted = {"start_at": deployer.minutes_ago(4).isoformat(), "end_at": deployer.minutes_ago(2).isoformat()}
    assert len((await deployer.post(path, {**wanted, "dry_run": True}))["times"]) == 2
    assert len(await deployer.runs(made)) == 1
    runs = (await deployer.post(path, wanted))["runs"]
    assert [run["state"] for run in runs] == ["running", "waiting"]
    assert {run["trigger_context"]["source"] for run in runs} == {"backfill"}
    assert (await deployer.post(path, wanted))["runs"] == [], "again: all of them have one"
    await deployer.rest(runs[0])
    await look(deployer.api)
    assert [run["state"] for run in await deployer.runs(made)] == ["ended", "ended", "running"]


@pytest.mark.parametrize(
    ("start", "end", "field"),
    [
        ("2026-01-01T00:00:00Z", "2026-01-01T02:00:00Z", "limit"),
        ("2024-01-01T00:00:00Z", "2026-01-01T00:00:00Z", "start_at"),
        ("2026-01-02T00:00:00Z", "2026-01-01T00:00:00Z", "end_at"),
        ("2026-01-02T00:00:00Z", "2999-01-01T00:00:00Z", "end_at"),
        ("0001-01-01T00:00:00+14:00", "0001-01-01T00:00:01Z", "start_at"),
        ("2026-01-01T00:00:00", "2026-01-01T01:00:00Z", "start_at"),
    ],
)
async def test_a_backfill_is_bounded(deployer: Deployer, start: str, end: str, field: str):
    made = await deployer.made()
    answer = await deployer.http.post(
        f"/v1/deployments/{made['id']}/backfill", json={"start_at": start, "end_at": end}
    )
    assert (answer.status_code, answer.json()["error"]["field"]) == (400, field)


ERRORS = [
    ("agent_archived_error", archived_agent, True),
    ("environment_archived_error", archived_environment, True),
    ("environment_not_found_error", deleted_environment, True),
    ("vault_archived_error", archived_vault, True),
    ("vault_not_found_error", deleted_vault, True),
    ("file_not_found_error", deleted_file, True),
    ("memory_store_archived_error", archived_store, True),
    ("session_resource_not_found_error", deleted_store, True),
    ("mcp_egress_blocked_error", closed_network, True),
    ("unknown_error", spent_budget, True),
    ("unknown_error", revoked_key, True),
    ("session_creation_rejected_error", archived_budget, False),
]


@pytest.mark.parametrize(("kind", "spoil", "pauses"), ERRORS, ids=[each[1].__name__ for each in ERRORS])
@pytest.mark.parametrize("session", ["new", pytest.param("continue", marks=pytest.mark.slow)])
async def test_the_rights_of_now_count(
    client: AsyncAnthropic, deployer: Deployer, kind: str, spoil: Any, pauses: bool, session: str
):
    made = await everything(deployer, session)
    if session == "continue" and spoil not in (deleted_environment, deleted_file):  # a session keeps them
        run = await deployer.outcome(made, deployer.minutes_ago(3))
        await deployer.rest(run)
        await look(deployer.api)
    await spoil(deployer, made)
    run = await deployer.outcome(made, deployer.minutes_ago(2))
    assert (run["outcome"], run["session_id"]) == ("failed", None)
    assert run["error"]["type"] == kind
    assert run["error"]["message"]
    seen = await client.beta.deployment_runs.retrieve(run["id"])
    assert seen.error is not None
    assert seen.error.type == kind
    after = await client.beta.deployments.retrieve(made["id"])
    assert after.status == ("paused" if pauses else "active")
    if pauses:
        assert after.paused_reason is not None
        assert after.paused_reason.type == "error"
        assert after.paused_reason.error.type == kind


async def test_whoever_unpauses_stands_in_for_a_revoked_key(deployer: Deployer):
    key = await deployer.post("/v1/api_keys", {"name": "leaving"})
    body = await deployer.body(schedule=EVERY_MINUTE)
    async with httpx.AsyncClient(base_url=deployer.api.url, headers={"x-api-key": key["key"]}) as leaving:
        made = (await leaving.post("/v1/deployments", json=body)).json()
    assert made["created_by"] == key["id"]
    await deployer.post(f"/v1/api_keys/{key['id']}/revoke")
    failed = await deployer.outcome(made, deployer.minutes_ago(3))
    assert failed["error"]["code"] == "key_revoked"
    after = await deployer.post(f"/v1/deployments/{made['id']}/unpause")
    assert after["created_by"] != key["id"]
    assert (await deployer.outcome(made, deployer.minutes_ago(2)))["state"] == "running"


async def test_more_runs_than_anybody_follows_are_refused_and_do_not_pause(deployer: Deployer):
    made = await deployer.made(schedule={**EVERY_MINUTE, "overlap": "allow", "catchup_window": "1d"})
    await absent(deployer, made, since=deployer.minutes_ago(101))
    await (await scheduler(deployer.api)).make_up(due.Due(id=made["id"], workspace_id=WORKSPACE))
    assert [run["state"] for run in await deployer.runs(made)] == ["running"] * 100
    before = deployer.minutes_ago(102).isoformat()
    more = {"start_at": before, "end_at": before}
    answer = await deployer.http.post(f"/v1/deployments/{made['id']}/backfill", json=more)
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "too_many_runs")
    run = await deployer.outcome(made, deployer.minutes_ago(1))
    assert run["error"]["type"] == "session_rate_limited_error"
    assert (await deployer.get(made))["status"] == "active"


async def test_what_cannot_be_begun_for_no_reason_known_is_given_up(deployer: Deployer):
    made = await deployer.made()
    # Nothing that the API lets in: as an older release, or a hand in the database, may have left it.
    await deployer.execute(
        'UPDATE deployments SET initial_events = \'[{"type": "no.such"}]\' WHERE id = %s', made["id"]
    )
    with pytest.raises(ValueError, match="no\\.such"):
        await deployer.fire(made, deployer.minutes_ago(1))
    assert await deployer.runs(made) == []
    await deployer.fire(made, deployer.minutes_ago(1), give_up=True)
    [run] = await deployer.runs(made)
    assert run["error"]["type"] == "unknown_error"
    assert (await deployer.get(made))["paused_reason"]["error"]["code"] == "internal_error"


async def test_the_attempt_after_the_last_begins_what_can_be_begun(deployer: Deployer):
    made = await deployer.made()
    # Those before met a Postgres that was away.
    await deployer.fire(made, deployer.minutes_ago(1), give_up=True)
    assert [run["state"] for run in await deployer.runs(made)] == ["running"]
    assert (await deployer.get(made))["status"] == "active"


async def test_a_manual_run_that_fails_pauses_nothing(deployer: Deployer):
    made = await deployer.made()
    await archived_environment(deployer, made)
    run = await deployer.post(f"/v1/deployments/{made['id']}/run")
    assert run["error"]["type"] == "environment_archived_error"
    assert (await deployer.get(made))["status"] == "active"


async def test_archiving_lets_what_waits_not_begin(deployer: Deployer):
    made = await deployer.made(schedule={**EVERY_MINUTE, "overlap": "buffer_one"})
    await deployer.fire(made, deployer.minutes_ago(2))
    await deployer.fire(made, deployer.minutes_ago(1))
    await deployer.post(f"/v1/deployments/{made['id']}/archive")
    await look(deployer.api)
    assert [run["outcome"] or run["state"] for run in await deployer.runs(made)] == ["running", "cancelled"]


async def test_the_message_is_what_the_deployment_says(deployer: Deployer):
    made = await deployer.made()
    run = await deployer.outcome(made, deployer.minutes_ago(1))
    events = (await deployer.http.get(f"/v1/sessions/{run['session_id']}/events")).json()["data"]
    assert events[0]["content"] == HELLO["content"]


async def test_a_row_that_nobody_can_read_does_not_end_the_scheduler(deployer: Deployer):
    made, other = await deployer.made(), await deployer.made()
    run = await deployer.outcome(made, deployer.minutes_ago(1))
    # Nothing that we write: as a hand in the database may have left it.
    await deployer.execute("UPDATE events SET processed_at = now() WHERE session_id = %s", run["session_id"])
    await deployer.execute(
        "UPDATE sessions SET status = 'idle', failure = '1', stop_reason = '{\"type\": \"end_turn\"}' WHERE id = %s",
        run["session_id"],
    )
    with pytest.raises(ValidationError):
        await look(deployer.api)
    running = asyncio.create_task((await scheduler(deployer.api)).run())
    try:
        for minutes in (3, 5):  # the second time, it has met the row
            await absent(deployer, other, since=deployer.minutes_ago(minutes))
            async with asyncio.timeout(30):
                while True:
                    if len(await deployer.runs(other)) >= minutes:
                        break
                    await asyncio.sleep(0.1)
        assert not running.done()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await deployer.execute("UPDATE sessions SET failure = NULL WHERE id = %s", run["session_id"])
