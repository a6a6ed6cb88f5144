"""Deployments on the whole control plane: on time, once, and through the death of what fires them."""

import asyncio
import hashlib
import hmac
import json
import os
import signal
import subprocess
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.cli import Cli
from tests.support.client import Client, run, script, text
from tests.support.stack import Stack

_PATIENCE_SECONDS = 60
EVERY_TWO_SECONDS = {"type": "cron", "interval": 2, "more_than_once_a_minute": True}


def hello(said: str) -> list[dict[str, Any]]:
    return [{"type": "user.message", "content": [{"type": "text", "text": said}]}]


async def deployed(client: Client, said: str, *, model: str = "scripted/test", **more: Any) -> dict[str, Any]:
    """Make a deployment of an agent that plays the script that it is told."""
    agent = await client.post("/v1/agents", {"name": "a", "model": model})
    environment = await client.post("/v1/environments", {"name": "e"})
    body = {"name": "d", "agent": agent["id"], "environment_id": environment["id"], "initial_events": hello(said)}
    return await client.post("/v1/deployments", {**body, **more})


async def runs_of(client: Client, made: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the runs, the oldest first."""
    found = await client.get("/v1/deployment_runs", deployment_id=made["id"], limit="1000")
    return sorted(found["data"], key=lambda run: run["created_at"])


async def ended(client: Client, made: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """Wait until so many runs have ended, and return them."""
    async with asyncio.timeout(_PATIENCE_SECONDS):
        while True:
            try:
                found = [run for run in await runs_of(client, made) if run["state"] == "ended"]
            except httpx.HTTPError:
                found = []  # the API is being started again
            if len(found) >= count:
                return found
            await asyncio.sleep(0.1)


async def test_it_runs_on_time_and_each_run_follows_its_session_to_the_end(client: Client) -> None:
    made = await deployed(client, script({"text": "done"}), schedule={**EVERY_TWO_SECONDS, "max_runs": 2})
    found = await ended(client, made, 2)
    times = [datetime.fromisoformat(each["trigger_context"]["scheduled_at"]) for each in found]
    assert times[1] - times[0] == timedelta(seconds=2)
    assert [each["outcome"] for each in found] == ["succeeded", "succeeded"]
    for each in found:
        events = await client.get(f"/v1/sessions/{each['session_id']}/events")
        assert "session.status_idle" in [event["type"] for event in events["data"]]


@pytest.mark.slow
async def test_no_firing_is_lost_or_doubled_when_what_fires_is_killed(client: Client, stack: Stack) -> None:
    schedule = {**EVERY_TWO_SECONDS, "overlap": "allow", "max_runs": 8}
    made = await deployed(client, script({"text": "done"}), schedule=schedule)
    for _ in range(2):
        await ended(client, made, 1)
        os.kill(stack.parts()["api"], signal.SIGKILL)
        await asyncio.sleep(3)
    await stack.ready_again()
    found = await ended(client, made, 8)
    times = [datetime.fromisoformat(each["trigger_context"]["scheduled_at"]) for each in found]
    assert sorted(times) == [min(times) + timedelta(seconds=2 * number) for number in range(8)]
    assert {each["outcome"] for each in found} == {"succeeded"}
    sessions = await client.get("/v1/sessions", deployment_id=made["id"], limit="100")
    assert sorted(each["id"] for each in sessions["data"]) == sorted(each["session_id"] for each in found)


async def test_a_run_that_goes_on_keeps_what_was_said_and_its_files(client: Client) -> None:
    said = script(run("echo x >> /workspace/seen; wc -l < /workspace/seen"), {"text": "{{result}}"})
    made = await deployed(client, said, session="continue")
    first = await client.post(f"/v1/deployments/{made['id']}/run")
    await ended(client, made, 1)
    second = await client.post(f"/v1/deployments/{made['id']}/run")
    await ended(client, made, 2)
    assert first["session_id"] == second["session_id"]
    events = await client.get(f"/v1/sessions/{first['session_id']}/events", types="agent.message")
    assert [text(each).split()[0] for each in events["data"]] == ["1", "2"]


async def test_a_run_that_goes_on_keeps_its_memory(client: Client) -> None:
    store = await client.post("/v1/memory_stores", {"name": "kept"})
    attached = [{"type": "memory_store", "memory_store_id": store["id"]}]
    save = {"tools": [{"name": "save_memory", "input": {"path": "/tea", "content": "Ada prefers tea."}}]}
    made = await deployed(client, script(save, {"text": "saved"}), session="continue", resources=attached)
    first = await client.post(f"/v1/deployments/{made['id']}/run")
    await ended(client, made, 1)
    read = {"tools": [{"name": "memory_read", "input": {"path": "/tea"}}]}
    await client.post(
        f"/v1/deployments/{made['id']}", {"initial_events": hello(script(read, {"text": "{{result}}"}))}
    )
    second = await client.post(f"/v1/deployments/{made['id']}/run")
    assert [run["outcome"] for run in await ended(client, made, 2)] == ["succeeded", "succeeded"]
    assert first["session_id"] == second["session_id"]
    events = await client.get(f"/v1/sessions/{first['session_id']}/events", types="agent.message")
    assert "Ada prefers tea." in text(events["data"][-1])


async def test_a_spent_budget_of_a_run_stops_it_and_a_run_costs_what_its_session_does(client: Client) -> None:
    model = "scripted/deployed"
    await client.post("/v1/prices", {"model": model, "input": "1000", "output": "1000"})
    budget = {"type": "limit", "max_list_cost": {"amount": "1", "currency": "USD"}}
    said = script(run("true"), run("true"), run("true"), {"text": "never"})
    made = await deployed(client, said, model=model, budget=budget)
    started = await client.post(f"/v1/deployments/{made['id']}/run")
    [found] = await ended(client, made, 1)
    assert found["outcome"] == "failed"
    assert "budget_reached" in found["detail"]
    events = await client.get(f"/v1/sessions/{started['session_id']}/events", types="agent.message")
    assert events["data"] == []
    usage = (await client.get(f"/v1/sessions/{started['session_id']}"))["usage"]
    assert Decimal(found["cost_usd"]) == Decimal(usage["cost_usd"]) > 0


@pytest.mark.slow
async def test_two_apis_on_one_database_fire_each_time_once(client: Client, stack: Stack, tmp_path: Path) -> None:
    process = Path(f"/proc/{stack.parts()['api']}")
    command = (process / "cmdline").read_bytes().rstrip(b"\0").split(b"\0")
    settings = dict(each.split(b"=", 1) for each in (process / "environ").read_bytes().split(b"\0") if b"=" in each)
    with (tmp_path / "second").open("wb") as output:
        second = subprocess.Popen(  # noqa: ASYNC220 - it only starts
            command, env={**settings, b"BULKHEAD_PORT": b"0"}, stdout=output, stderr=output, start_new_session=True
        )
    try:
        schedule = {**EVERY_TWO_SECONDS, "overlap": "allow", "max_runs": 8}
        made = await deployed(client, script({"text": "done"}), schedule=schedule)
        found = await ended(client, made, 8)
        assert second.poll() is None, (tmp_path / "second").read_text()
    finally:
        second.kill()
        second.wait()
    times = sorted(datetime.fromisoformat(each["trigger_context"]["scheduled_at"]) for each in found)
    assert times == [times[0] + timedelta(seconds=2 * number) for number in range(8)]
    sessions = await client.get("/v1/sessions", deployment_id=made["id"], limit="100")
    assert sorted(each["id"] for each in sessions["data"]) == sorted(each["session_id"] for each in found)


@pytest.mark.slow
@pytest.mark.thorough
@pytest.mark.timeout(400)
async def test_after_an_absence_of_the_control_plane_over_twelve_firings_each_has_its_run(tmp_path: Path) -> None:
    stack = Stack(tmp_path / "data")
    try:
        stack.start()
        stack.wait_ready()
        # Not by their number: of those that are due together, any may be the last ones.
        ends_at = (datetime.now(UTC) + timedelta(seconds=40)).isoformat()
        schedule = {**EVERY_TWO_SECONDS, "overlap": "allow", "ends_at": ends_at}
        async with Client(stack) as client:
            made = await deployed(client, script({"text": "done"}), schedule=schedule)
            first = datetime.fromisoformat(made["schedule"]["upcoming_runs_at"][0])
            wanted = [each for n in range(20) if (each := first + timedelta(seconds=2 * n)).isoformat() < ends_at]
            before = len(await ended(client, made, 1))
        stack.stop()
        await asyncio.sleep(24)
        stack.start()
        stack.wait_ready()
        async with Client(stack) as client:
            found = await ended(client, made, len(wanted))
    finally:
        stack.end()
    times = sorted(datetime.fromisoformat(each["trigger_context"]["scheduled_at"]) for each in found)
    assert times == wanted
    assert {each["outcome"] for each in found} == {"succeeded"}
    assert before < len(wanted) - 12, "twelve were due while it was away"
    assert len({each["session_id"] for each in found}) == len(wanted)


async def test_a_run_beyond_its_deadline_is_stopped(client: Client) -> None:
    made = await deployed(client, script(run("sleep 300"), {"text": "never"}), deadline=3)
    started = await client.post(f"/v1/deployments/{made['id']}/run")
    [found] = await ended(client, made, 1)
    assert found["outcome"] == "deadline_exceeded"
    async with client.watching(started["session_id"]) as watcher:
        await watcher.until(lambda w: "session.status_idle" in w.types)
    assert (await client.get(f"/v1/sessions/{started['session_id']}"))["status"] == "idle"


async def test_the_later_run_takes_the_place_of_the_one_that_still_runs(client: Client) -> None:
    trigger = {"type": "github", "secret": "k" * 32, "template": "{{ payload.said }}"}
    schedule = {"type": "cron", "interval": "1d", "overlap": "cancel_other"}
    made = await deployed(client, script(run("sleep 300"), {"text": "never"}), schedule=schedule, trigger=trigger)
    for number in range(2):
        body = json.dumps({"said": str(number)}).encode()
        digest = hmac.new(b"k" * 32, body, hashlib.sha256).hexdigest()
        headers = {
            "x-hub-signature-256": f"sha256={digest}",
            "x-github-delivery": str(number),
            "content-type": "application/json",
        }
        async with httpx.AsyncClient(base_url=client.stack.url) as outside:
            assert (await outside.post(made["trigger"]["path"], content=body, headers=headers)).status_code == 200
    first, second = await runs_of(client, made)
    assert (first["outcome"], second["state"]) == ("cancelled", "running")
    await client.send(second["session_id"], {"type": "user.interrupt"})
    last = (await ended(client, made, 2))[1]
    assert (last["session_id"], last["outcome"]) == (second["session_id"], "cancelled")


@pytest.mark.slow
async def test_who_interrupts_what_waits_for_a_decision_cancels_the_run(client: Client) -> None:
    asks = {"type": "always_ask"}
    tools = [{"type": "agent_toolset_20260401", "default_config": {"permission_policy": asks}}]
    agent = await client.post("/v1/agents", {"name": "a", "model": "scripted/test", "tools": tools})
    said = hello(script(run("true"), {"text": "never"}))
    made = await deployed(client, "", agent=agent["id"], session="continue", initial_events=[*said, *said])
    started = await client.post(f"/v1/deployments/{made['id']}/run")
    async with client.watching(started["session_id"]) as watcher:
        await watcher.until(lambda w: "requires_action" in str(w.events))
    assert (await runs_of(client, made))[0]["state"] == "running"
    await client.send(started["session_id"], {"type": "user.interrupt"})
    [found] = await ended(client, made, 1)
    assert found["outcome"] == "cancelled"
    session = await client.get(f"/v1/sessions/{started['session_id']}")
    assert session["stop_reason"]["type"] == "end_turn", "the second message began nothing"


@pytest.mark.slow
def test_the_command_line(stack: Stack, tmp_path: Path) -> None:
    cli = Cli(stack, tmp_path)
    cli.text("agents", "create", "--name", "scheduled", "--model", "scripted/test")
    cli.text("environments", "create", "--name", "scheduled")
    called = "from-the-command-line"
    common = ("deployments", "create", "--name", called, "--agent", "scheduled", "--environment", "scheduled")
    timed = ("--cron", "30 2 * * *", "--timezone", "Europe/Berlin", "--message", script({"text": "done"}))
    assert "At 02:30, every day, Europe/Berlin time" in cli.text(*common, *timed, "--dry-run")
    made = cli.json(*common, *timed)
    name = made["id"]
    assert name in cli.text("deployments", "list")
    assert "upcoming_runs_at" in cli.text("deployments", "next", name)
    assert cli.json("deployments", "pause", name)["status"] == "paused"
    assert cli.json("deployments", "unpause", name)["status"] == "active"
    assert cli.json("deployments", "show", called)["id"] == name
    assert cli.json("deployments", "run", called)["session_id"].startswith("sesn_")
    now = datetime.now(UTC)
    spans = ("--from", (now - timedelta(days=3)).isoformat(), "--to", (now - timedelta(days=1)).isoformat())
    assert cli.text("deployments", "backfill", name, *spans, "--dry-run").count(":30:00") == 2
    assert len(cli.json("deployments", "backfill", name, *spans)) == 2
    assert len(cli.json("deployments", "runs", called)) == 3
    assert "lateness_seconds".upper() in cli.text("deployments", "runs", name)
    wrong = ("--cron", "61 * * * *", "--timezone", "UTC", "--message", "x")
    assert "schedule.expression" in cli.refused(*common, *wrong)
    secret = ("--trigger", "github", "--template", "{{ payload.a }}")
    triggered = cli.run(*common, "--message", "x", *secret, "--json", stdin="a-secret-of-the-sender\n")
    assert json.loads(triggered.stdout)["trigger"]["type"] == "github"
    assert "a-secret" not in triggered.stdout
    assert cli.json("deployments", "archive", name)["archived_at"]
    budget = cli.json("budgets", "create", "team", "--max-tokens", "1000")["id"]
    often = ("--message", "x", "--every", "30s")
    assert "interval" in cli.refused(*common, *often, "--budget", "team")
    bounded = cli.json(*common, *often, "--more-than-once-a-minute", "--budget", "team")
    assert (bounded["budget_ids"], bounded["schedule"]["interval"]) == ([budget], 30)
