"""What sessions may cost, as a user meets it. A scripted model's prices are set by each test."""

import asyncio
import os
import signal
from decimal import Decimal
from typing import Any

import pytest

from tests.support.client import Client, run, script, text

pytestmark = pytest.mark.slow


async def priced(client: Client, name: str, *, per_million: str = "1000") -> str:
    """Give a scripted model of its own a price and return it: at 1,000 dollars per million a token costs 0.1 cent."""
    model = f"scripted/{name}"
    await client.post("/v1/prices", {"model": model, "input": per_million, "output": per_million})
    return model


def limit(cents: int) -> dict[str, Any]:
    return {"type": "limit", "max_list_cost": {"amount": str(cents), "currency": "USD"}}


async def session(client: Client, session_id: str) -> dict[str, Any]:
    return await client.get(f"/v1/sessions/{session_id}")


async def test_the_cost_of_each_step_is_in_its_event_and_adds_up(client: Client) -> None:
    session_id = await client.session(model=await priced(client, "adds-up"))
    async with client.watching(session_id) as watcher:
        await client.say(session_id, script(run("true"), {"text": "done"}))
        await watcher.until_idle()
        ends = watcher.of("span.model_request_end")
    costs = [Decimal(end["cost_usd"]) for end in ends]
    for end, cost in zip(ends, costs, strict=True):
        assert cost == sum(end["model_usage"].values()) * Decimal("0.001")
    usage = (await session(client, session_id))["usage"]
    assert Decimal(usage["cost_usd"]) == sum(costs)
    assert usage["list_cost"] == {"amount": str(round(sum(costs) * 100)), "currency": "USD"}


async def test_a_spent_budget_parks_the_turn_and_raising_it_lets_it_go_on(client: Client) -> None:
    session_id = await client.session(model=await priced(client, "parks"), budget=limit(1))
    async with client.watching(session_id) as watcher:
        await client.say(
            session_id, script(run("echo once >> effects"), run("wc -l < effects"), {"text": "{{result}}"})
        )
        await watcher.until_idle()
        assert watcher.events[-1]["stop_reason"]["type"] == "budget_reached"
        assert "of $0.01 is spent" in watcher.events[-1]["stop_reason"]["message"]
        assert len(watcher.of("span.model_request_end")) == 2, "one request is over the budget, and none after it"
        found = await session(client, session_id)
        assert found["failure"] is None
        said = await client.get(f"/v1/sessions/{session_id}/explanation")
        assert said["because"] == "the session's budget of $0.01 is spent"
        low = await client.refused(f"/v1/sessions/{session_id}", {"budget": limit(1)})
        assert low.json()["error"]["code"] == "budget_not_raised"
        await client.post(f"/v1/sessions/{session_id}", {"budget": limit(1_000_000)})
        await watcher.until_idle(times=2)
        assert text(watcher.of("agent.message")[-1]).strip() == "1"


async def test_messages_to_a_session_without_money_wait_for_it_each_for_a_turn_of_its_own(client: Client) -> None:
    session_id = await client.session(model=await priced(client, "waits"), budget=limit(1))
    async with client.watching(session_id) as watcher:
        texts = [script({"text": text}) for text in ("the first " * 50, "the second", "the third")]
        await client.say(session_id, *texts)
        await watcher.until_idle(times=2)
        assert watcher.events[-1]["stop_reason"]["type"] == "budget_reached"
        await client.say(session_id, script({"text": "the fourth"}))
        await asyncio.sleep(3)
        assert len(watcher.of("session.status_idle")) == 2, "nothing can run, and nothing is taken"
        await client.post(f"/v1/sessions/{session_id}/resume", {"budget": None})
        await watcher.until_idle(times=5)
        said = [text(each) for each in watcher.of("agent.message")[1:]]
        assert said == ["the second", "the third", "the fourth"]


async def test_a_model_without_a_price_rests_until_it_has_one(client: Client) -> None:
    made = await client.session(model="claude-that-quotes-its-key", budget=limit(100))
    async with client.watching(made) as watcher:
        await client.say(made, "hello")
        await watcher.until_idle()
        stop = watcher.events[-1]["stop_reason"]
        assert (stop["type"], stop["unpriced"]) == ("budget_reached", "claude-that-quotes-its-key")
        seen = len(watcher.events)
        await asyncio.sleep(3)
        assert len(watcher.events) == seen, "it does not try again by itself"
        said = await client.get(f"/v1/sessions/{made}/explanation")
        assert "has no list price" in said["because"]
        assert "bulkhead prices set claude-that-quotes-its-key" in said["next_step"]
        await client.post("/v1/prices", {"model": "claude-that-quotes-*", "input": "1", "output": "1"})
        await watcher.until_idle(times=2)
        assert watcher.of("session.error")[-1]["error"]["code"] == "authentication"


async def test_sessions_that_share_a_budget_overshoot_it_by_their_running_requests_at_most(client: Client) -> None:
    model = await priced(client, "shared")
    budget = await client.post("/v1/budgets", {"name": "shared", "max_tokens": 1500})
    sessions = [await client.session(model=model, budget_ids=[budget["id"]]) for _ in range(4)]
    steps = [{"text": f"step {n}", **run("true")} for n in range(12)]
    for session_id in sessions:
        await client.say(session_id, script(*steps, {"text": "done"}))
    async with asyncio.timeout(90):
        for session_id in sessions:
            await parked_for_good(client, session_id)
    spent = (await client.get(f"/v1/budgets/{budget['id']}"))["spent"]
    ends = [end for session_id in sessions for end in await request_ends(client, session_id)]
    largest = max(sum(end["model_usage"].values()) for end in ends)
    assert spent["tokens"] == sum(sum(end["model_usage"].values()) for end in ends)
    assert 1500 <= spent["tokens"] <= 1500 + len(sessions) * largest
    assert (spent["reserved_tokens"], Decimal(spent["reserved_usd"])) == (0, 0)
    stops = [(await session(client, each))["stop_reason"] for each in sessions]
    assert {stop["budget_id"] for stop in stops} == {budget["id"]}
    await client.post(f"/v1/budgets/{budget['id']}", {"max_tokens": 10_000_000})
    async with asyncio.timeout(120):
        for session_id in sessions:
            await ended(client, session_id, "end_turn")


async def test_an_agents_budget_of_a_day_binds_every_session_of_it_until_the_next_day(client: Client) -> None:
    first = await client.session(model=await priced(client, "daily"))
    agent = (await session(client, first))["agent"]["id"]
    made = await client.post(
        "/v1/budgets", {"name": "daily", "agent_id": agent, "period": "day", "max_cost_usd": "0.01"}
    )
    async with client.watching(first) as watcher:
        await client.say(first, script({"text": "spend " * 50}))
        await watcher.until_idle()
        await client.say(first, script({"text": "more"}))
        await watcher.until_idle(times=2)
        stop = watcher.events[-1]["stop_reason"]
    assert (stop["type"], stop["budget_id"], stop["until"][:10]) == (
        "budget_reached",
        made["id"],
        made["period_end"][:10],
    )
    assert "it is resumed at" in (await client.get(f"/v1/sessions/{first}/explanation"))["waits"]
    await client.post(f"/v1/budgets/{made['id']}/archive")
    async with asyncio.timeout(30):
        await ended(client, first, "end_turn")


async def test_a_model_that_stands_in_is_named_and_booked_at_its_own_price(client: Client) -> None:
    first, second = await priced(client, "stands-first"), await priced(client, "stands-second", per_million="2000")
    agent = await client.post("/v1/agents", {"name": "a", "model": {"id": first, "fallbacks": [second]}})
    session_id = await client.session(agent=agent["id"])
    async with client.watching(session_id) as watcher:
        await client.say(session_id, script({"text": "done", "fail": {"status": 529}}))
        await watcher.until_idle()
        assert "session.error" not in watcher.types, "the turn notices nothing"
        (end,) = watcher.of("span.model_request_end")
    assert end["model"] == second
    assert Decimal(end["cost_usd"]) == sum(end["model_usage"].values()) * Decimal("0.002")
    (asked,) = (await client.get(f"/v1/sessions/{session_id}/model_requests"))["data"]
    assert (asked["id"], asked["model"], asked["fallback_for"]) == (end["model_request_start_id"], second, first)
    assert asked["cost_usd"] == end["cost_usd"] == (await session(client, session_id))["usage"]["cost_usd"]


async def test_a_session_that_is_resumed_with_another_model_may_ask_that_one(client: Client) -> None:
    session_id = await client.session(model=await priced(client, "before"), budget=limit(1))
    async with client.watching(session_id) as watcher:
        await client.say(session_id, script({"text": "spend " * 50}))
        await watcher.until_idle()
        await client.say(session_id, script({"text": "second"}))
        await watcher.until_idle(times=2)
        await client.post(f"/v1/sessions/{session_id}/resume", {"budget": None, "model": "scripted/after"})
        await watcher.until_idle(times=3)
        assert text(watcher.of("agent.message")[-1]) == "second"
    asked = (await client.get(f"/v1/sessions/{session_id}/model_requests"))["data"]
    assert [each["model"] for each in asked] == ["scripted/before", "scripted/after"]


async def test_a_request_whose_gateway_dies_is_booked_as_its_reservation_and_made_again(client: Client) -> None:
    session_id = await client.session(model=await priced(client, "gateway-dies"))
    async with client.watching(session_id) as watcher:
        await client.say(session_id, script({"text": "slow " * 100, "chunk_chars": 5, "chunk_ms": 20}))
        await watcher.until(lambda w: any(p["type"] == "event_delta" for p in w.previews))
        os.kill(client.stack.parts()["gateway"], signal.SIGKILL)
        await watcher.until_idle(timeout_seconds=60)
    asked = (await client.get(f"/v1/sessions/{session_id}/model_requests"))["data"]
    assert (asked[0]["state"], asked[0]["usage"], asked[-1]["state"]) == ("lost", None, "metered")
    usage = (await session(client, session_id))["usage"]
    assert Decimal(usage["cost_usd"]) == sum(Decimal(each["cost_usd"] or 0) for each in asked)
    assert Decimal(asked[0]["cost_usd"]) > 0


async def test_a_request_that_was_lost_is_booked_as_its_reservation(client: Client) -> None:
    session_id = await client.session(model=await priced(client, "lost"))
    async with client.watching(session_id) as watcher:
        await client.say(session_id, script({"text": "slow " * 200, "chunk_chars": 5, "chunk_ms": 20}))
        await watcher.until(lambda w: any(p["type"] == "event_delta" for p in w.previews))
        os.kill(client.stack.parts()["brain"], signal.SIGKILL)
        await watcher.until_idle(timeout_seconds=60)
        ends = watcher.of("span.model_request_end")
    assert [end["is_error"] for end in ends] == [True, False]
    usage = (await session(client, session_id))["usage"]
    assert Decimal(usage["cost_usd"]) > Decimal(ends[1]["cost_usd"])


async def test_a_new_name_lets_nobody_go_on_and_is_not_lost_to_a_new_limit(client: Client) -> None:
    budget = await client.post("/v1/budgets", {"name": "first", "max_tokens": 1})
    path, session_id = f"/v1/budgets/{budget['id']}", await client.session(budget_ids=[budget["id"]])
    async with client.watching(session_id) as watcher:
        await client.say(session_id, script({"text": "one"}, {"text": "never"}))
        await watcher.until_idle()
        await client.say(session_id, script({"text": "two"}))
        await watcher.until_idle(times=2)
        await client.post(path, {"name": "second"})
        await asyncio.sleep(3)
        assert watcher.types.count("session.status_idle") == 2
        for n in range(10):
            changes = ({"name": f"name {n}"}, {"max_tokens": 100_000 + n})
            await asyncio.gather(*(client.post(path, change) for change in changes))
            found = await client.get(path)
            assert (found["name"], found["max_tokens"]) == (f"name {n}", 100_000 + n)
        await watcher.until_idle(times=3)
        assert text(watcher.of("agent.message")[-1]) == "two"


async def test_budgets_and_prices_say_what_is_wrong_with_them(client: Client) -> None:
    for path, body, field in (
        ("/v1/budgets", {"name": "none"}, None),
        ("/v1/budgets", {"name": "x", "max_cost_usd": "-1"}, "max_cost_usd"),
        ("/v1/budgets", {"name": "x", "max_cost_usd": "NaN"}, "max_cost_usd"),
        ("/v1/budgets", {"name": "x", "max_cost_usd": "1e400"}, "max_cost_usd"),
        ("/v1/budgets", {"name": "x", "max_tokens": 5, "period": "week"}, "period"),
        ("/v1/prices", {"model": "m", "input": "free", "output": "1"}, "input"),
    ):
        refused = await client.refused(path, body)
        assert refused.status_code == 400, body
        assert field is None or refused.json()["error"]["field"] == field
    assert (
        await client.refused("/v1/budgets", {"name": "x", "max_tokens": 5, "agent_id": "agent_none"})
    ).status_code == 404
    unknown = await client.refused(f"/v1/sessions/{await client.session()}", {"budget_ids": ["bdgt_none"]})
    assert (unknown.status_code, unknown.json()["error"]["field"]) == (400, "budget_ids")


async def ended(client: Client, session_id: str, why: str) -> None:
    while True:
        found = await session(client, session_id)
        if found["status"] == "idle" and (found["stop_reason"] or {}).get("type") == why:
            return
        await asyncio.sleep(0.1)


async def parked_for_good(client: Client, session_id: str) -> None:
    """Wait until a session rests for a budget that is spent, and not only reserved by others at that moment."""
    while True:
        found = await session(client, session_id)
        stop = found["stop_reason"] or {}
        if found["status"] == "idle" and "budget_id" in stop and "until" not in stop:
            return
        await asyncio.sleep(0.1)


async def request_ends(client: Client, session_id: str) -> list[dict[str, Any]]:
    found = await client.get(f"/v1/sessions/{session_id}/events", limit="1000", types="span.model_request_end")
    return [end for end in found["data"] if not end["is_error"]]
