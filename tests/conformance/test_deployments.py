"""Deployments through the public SDK, and what is refused."""

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from anthropic import AsyncAnthropic, BadRequestError
from anthropic.types.beta import BetaEnvironment, BetaManagedAgentsAgent

from .conftest import Api
from .deploying import EVERY_MINUTE, HELLO, Deployer

TOMORROW = (datetime.now(UTC) + timedelta(days=1)).isoformat()


@pytest.fixture
def deployer(api: Api, http: httpx.AsyncClient) -> Deployer:
    return Deployer(api, http)


@pytest.fixture(scope="module")
async def body(api: Api, http: httpx.AsyncClient) -> dict[str, Any]:
    """What a deployment may be made of."""
    return await Deployer(api, http).body()


async def test_a_deployments_life_through_the_sdk(
    client: AsyncAnthropic, agent: BetaManagedAgentsAgent, environment: BetaEnvironment
):
    made = await client.beta.deployments.create(
        name="nightly",
        agent=agent.id,
        environment_id=environment.id,
        initial_events=[{"type": "user.message", "content": [{"type": "text", "text": "go"}]}],
        schedule={"type": "cron", "expression": "0 9 * * 1-5", "timezone": "Europe/Berlin"},
        metadata={"team": "a"},
    )
    assert made.id.startswith("depl_")
    assert made.status == "active"
    assert made.agent.version == agent.version
    assert made.schedule is not None
    assert len(made.schedule.upcoming_runs_at or []) == 5
    assert (await client.beta.deployments.retrieve(made.id)).to_dict() == made.to_dict()
    assert made.id in [each.id async for each in client.beta.deployments.list(agent_id=agent.id)]

    changed = await client.beta.deployments.update(made.id, name="daily", metadata={"team": None}, schedule=None)
    assert (changed.name, changed.metadata, changed.schedule) == ("daily", {}, None)

    paused = await client.beta.deployments.pause(made.id)
    assert paused.paused_reason is not None
    assert (paused.status, paused.paused_reason.type) == ("paused", "manual")
    assert [each.id async for each in client.beta.deployments.list(status="paused", agent_id=agent.id)] == [made.id]

    run = await client.beta.deployments.run(made.id)
    assert run.id.startswith("drun_")
    assert run.session_id is not None
    assert run.trigger_context.type == "manual"
    session = await client.beta.sessions.retrieve(run.session_id)
    assert session.deployment_id == made.id
    assert [each.id async for each in client.beta.sessions.list(deployment_id=made.id)] == [session.id]
    assert (await client.beta.deployment_runs.retrieve(run.id)).session_id == session.id
    assert [each.id async for each in client.beta.deployment_runs.list(deployment_id=made.id)] == [run.id]

    assert (await client.beta.deployments.unpause(made.id)).status == "active"
    archived = await client.beta.deployments.archive(made.id)
    assert archived.archived_at is not None
    assert [each.id async for each in client.beta.deployments.list(agent_id=agent.id)] == []
    with pytest.raises(BadRequestError):
        await client.beta.deployments.run(made.id)


async def test_the_answer_says_what_was_understood(deployer: Deployer):
    schedule = {
        "type": "cron", "expression": "0 9 29 2 *", "timezone": "Europe/Berlin", "exclude_dates": ["2032-02-29"],
        "jitter": "5m", "overlap": "buffer_one", "catchup_window": "1h", "max_runs": 3, "dst": "skip",
    }  # fmt: skip
    made = (await deployer.made(schedule=schedule))["schedule"]
    assert made["in_words"].startswith(
        "At 09:00, on day 29 of the month in February, Europe/Berlin time; not on 2032"
    )
    assert (made["jitter"], made["catchup_window"], made["overlap"], made["dst"]) == (300, 3600, "buffer_one", "skip")
    assert [each[:10] for each in made["upcoming_runs_at"]] == ["2028-02-29", "2036-02-29", "2040-02-29"]


async def test_a_dry_run_makes_nothing(deployer: Deployer):
    body = await deployer.body(schedule=EVERY_MINUTE, dry_run=True)
    before = (await deployer.http.get("/v1/deployments")).json()
    said = await deployer.post("/v1/deployments", body)
    assert said["type"] == "deployment_dry_run"
    assert said["schedule"]["in_words"] == "Every minute, every day, UTC time."
    assert len(said["schedule"]["upcoming_runs_at"]) == 5
    assert (await deployer.http.get("/v1/deployments")).json() == before


async def test_an_interval_answers_in_the_wire_formats_shape(client: AsyncAnthropic, deployer: Deployer):
    made = await deployer.made(schedule={"type": "cron", "interval": "90m"})
    assert made["schedule"]["interval"] == 5400
    seen = await client.beta.deployments.retrieve(made["id"])
    assert seen.schedule is not None
    assert seen.schedule.expression == "@every 5400s"
    # The same interval in an update goes on from where it began, another one begins anew.
    again = await deployer.post(f"/v1/deployments/{made['id']}", {"schedule": {"type": "cron", "interval": 5400}})
    assert again["schedule"]["upcoming_runs_at"] == made["schedule"]["upcoming_runs_at"]


def schedule(**more: Any) -> dict[str, Any]:
    return {"schedule": {**EVERY_MINUTE, **more}}


def templated(template: str) -> dict[str, Any]:
    return {"trigger": {"type": "github", "secret": "s" * 20, "template": template}}


LEAP_DAYS = [f"{year}-02-29" for year in range(2028, 2060, 4)]

REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("impossible date", schedule(expression="0 0 31 2 *"), "schedule.expression"),
    ("never on that day", schedule(expression="0 0 31 4,6,9,11 *"), "schedule.expression"),
    ("seconds", schedule(expression="* * * * * *"), "schedule.expression"),
    ("macro", schedule(expression="@hourly"), "schedule.expression"),
    ("last day", schedule(expression="0 0 L * *"), "schedule.expression"),
    ("a step that is never taken", schedule(expression="*/99 * * * *"), "schedule.expression"),
    ("the machine's zone", schedule(timezone="localtime"), "schedule.timezone"),
    ("no expression", {"schedule": {"type": "cron", "timezone": "UTC"}}, "schedule.expression"),
    ("both", schedule(interval=3600), "schedule.expression"),
    ("unknown zone", schedule(timezone="Mars/Olympus"), "schedule.timezone"),
    ("a path as zone", schedule(timezone="../../etc/passwd"), "schedule.timezone"),
    ("no zone", {"schedule": {"type": "cron", "expression": "* * * * *"}}, "schedule.timezone"),
    ("too often", {"schedule": {"type": "cron", "interval": 59}}, "schedule.interval"),
    ("no duration", {"schedule": {"type": "cron", "interval": "soon"}}, "schedule.interval"),
    ("past end", schedule(ends_at="2001-01-01T00:00:00Z"), "schedule.ends_at"),
    ("end before the first", schedule(expression="0 0 29 2 *", ends_at=TOMORROW), "schedule.ends_at"),
    ("end without zone", schedule(ends_at="2999-01-01T00:00:00"), "schedule.ends_at"),
    ("far end", schedule(ends_at="9999-12-31T23:59:59Z"), "schedule.ends_at"),
    ("no date left", schedule(expression="0 0 29 2 *", exclude_dates=LEAP_DAYS), "schedule.exclude_dates"),
    ("no date", schedule(exclude_dates=["2026-02-30"]), "schedule.exclude_dates.0"),
    ("overlap", schedule(overlap="maybe"), "schedule.overlap"),
    ("catch-up", schedule(catchup_window="8d"), "schedule.catchup_window"),
    ("dst", schedule(dst="twice"), "schedule.dst"),
    ("max runs", schedule(max_runs=0), "schedule.max_runs"),
    ("no events", {"initial_events": []}, "initial_events"),
    ("only context", {"initial_events": [{**HELLO, "type": "system.message"}]}, "initial_events.0"),
    ("outcome", {"initial_events": [{"type": "user.define_outcome", "description": "x"}]}, "initial_events.0.type"),
    ("repository", {"resources": [{"type": "github_repository", "url": "https://x/y"}]}, "resources.0.type"),
    ("file", {"resources": [{"type": "file", "file_id": "file_x"}]}, "resources.0.file_id"),
    ("agent", {"agent": "agent_x"}, "agent"),
    ("environment", {"environment_id": "env_x"}, "environment_id"),
    ("vault", {"vault_ids": ["vlt_x"]}, "vault_ids.0"),
    ("budget", {"budget_ids": ["bdgt_x"]}, "budget_ids"),
    ("session", {"session": "old"}, "session"),
    ("deadline", {"deadline": "9 days"}, "deadline"),
    ("trigger", templated("{{ env.HOME }}"), "trigger.template"),
    ("blank template", templated("  \n"), "trigger.template"),
    ("dunder", templated("{{ payload.__class__ }}"), "trigger.template"),
    ("expression", templated("{{ payload.a + 1 }}"), "trigger.template"),
    ("weak secret", {"trigger": {"type": "github", "secret": "s", "template": "x"}}, "trigger.secret"),
    ("no secret", {"trigger": {"type": "slack", "template": "x"}}, "trigger.secret"),
    ("key", {"trigger": {"type": "standard_webhooks", "secret": "whsec_!", "template": "x"}}, "trigger.secret"),
]  # fmt: skip


@pytest.mark.parametrize(("what", "more", "field"), REFUSED, ids=[each[0] for each in REFUSED])
async def test_what_cannot_be_is_refused_with_its_field(
    deployer: Deployer, body: dict[str, Any], what: str, more: dict[str, Any], field: str
):
    for dry_run in (False, True):
        answer = await deployer.http.post("/v1/deployments", json={**body, **more, "dry_run": dry_run})
        assert answer.status_code in (400, 404), answer.text
        assert answer.json()["error"]["field"] == field
        assert answer.json()["error"]["next_step"]


async def test_a_secret_is_never_shown(deployer: Deployer):
    secret = "a-secret-of-the-sender"
    trigger = {"type": "github", "secret": secret, "template": "{{ payload.a }}"}
    made = await deployer.made(trigger=trigger)
    assert made["trigger"] == {
        "type": "github",
        "template": "{{ payload.a }}",
        "path": f"/v1/deployments/{made['id']}/trigger",
    }
    path = f"/v1/deployments/{made['id']}"
    kept = await deployer.post(path, {"trigger": {"type": "github", "template": "now {{ payload.b }}"}})
    assert kept["trigger"]["template"] == "now {{ payload.b }}"
    async with deployer.api.database.transaction("*") as connection:
        found = await (await connection.execute("SELECT wrapped_secret FROM deployment_triggers")).fetchall()
    assert all(secret.encode() not in bytes(row["wrapped_secret"]) for row in found)
    assert (await deployer.post(path, {"trigger": None}))["trigger"] is None


async def test_an_update_keeps_what_it_does_not_name(deployer: Deployer):
    made = await deployer.made(description="d", deadline="10m", pause_on_failure=3, session="continue")
    same = await deployer.post(f"/v1/deployments/{made['id']}", {"name": "other"})
    changed = {name for name in made if made[name] != same[name]}
    assert changed - {"schedule"} == {"name", "updated_at"}
    cleared = {"description": None, "deadline": None, "pause_on_failure": None, "schedule": None, "resources": None}
    after = await deployer.post(f"/v1/deployments/{made['id']}", cleared)
    assert {name: after[name] for name in cleared} == {**cleared, "resources": []}


async def test_a_repeated_request_makes_one_run(deployer: Deployer):
    made = await deployer.made()
    path, key = f"/v1/deployments/{made['id']}/run", {"idempotency-key": made["id"]}
    first = await deployer.http.post(path, headers=key)
    again = await deployer.http.post(path, headers=key)
    assert first.json() == again.json()
    assert len(await deployer.runs(made)) == 1


async def test_another_workspace_sees_nothing(deployer: Deployer):
    made = await deployer.made()
    run = await deployer.post(f"/v1/deployments/{made['id']}/run")
    async with deployer.api.database.transaction("wrkspc_other") as connection:
        for table in ("deployments", "deployment_runs", "deployment_triggers"):
            found = await (await connection.execute(f"SELECT 1 FROM {table}".encode())).fetchall()  # noqa: S608
            assert found == []
    assert run["deployment_id"] == made["id"]


@pytest.mark.parametrize("path", ["", "/pause", "/unpause", "/run", "/archive", "/backfill"])
async def test_an_unknown_deployment_is_not_found(deployer: Deployer, path: str):
    body = {"start_at": "2026-01-01T00:00:00Z", "end_at": "2026-01-01T01:00:00Z"} if path == "/backfill" else {}
    answer = await deployer.http.post(f"/v1/deployments/depl_x{path}", json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "deployment_not_found")


async def test_the_hello_of_the_deployment_reaches_its_session(deployer: Deployer):
    note = {"type": "system.message", "content": [{"type": "text", "text": "note"}]}
    made = await deployer.made(initial_events=[HELLO, note])
    run = await deployer.post(f"/v1/deployments/{made['id']}/run")
    found = (await deployer.http.get(f"/v1/sessions/{run['session_id']}/events")).json()["data"]
    assert [event["type"] for event in found] == ["user.message", "system.message"]


async def test_a_window_holds_no_more_firings_than_those_of_every_minute(deployer: Deployer):
    often = {"type": "cron", "interval": 1, "more_than_once_a_minute": True, "catchup_window": "3h"}
    answer = await deployer.http.post("/v1/deployments", json=await deployer.body(schedule=often))
    assert (answer.status_code, answer.json()["error"]["field"]) == (400, "schedule.catchup_window")
    await deployer.made(schedule={**often, "catchup_window": "2h"})
