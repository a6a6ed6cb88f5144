"""Sessions and their threads through the public SDK."""

from collections.abc import AsyncGenerator
from typing import Any

import pytest
from anthropic import AsyncAnthropic, BadRequestError, ConflictError, NotFoundError

from controlplane.store.pool import ALL_WORKSPACES

from .conftest import Api

HELLO: Any = {"type": "user.message", "content": [{"type": "text", "text": "hello"}]}


def budget(amount: str, currency: str = "USD") -> Any:
    return {"type": "limit", "max_list_cost": {"amount": amount, "currency": currency}}


BUDGET = budget("500")


async def set_status(api: Api, session_id: str, status: str) -> None:
    """Put a session where only a turn could bring it."""
    async with api.database.transaction(ALL_WORKSPACES) as connection:
        await connection.execute("UPDATE sessions SET status = %s WHERE id = %s", (status, session_id))


@pytest.fixture
async def running(api: Api, session: Any) -> AsyncGenerator[Any]:
    """A session in the middle of a turn."""
    await set_status(api, session.id, "running")
    yield session
    await set_status(api, session.id, "idle")


async def test_a_session_starts_idle_with_its_agent_in_full(client: AsyncAnthropic, environment: Any):
    agent = await client.beta.agents.create(
        name="tester", model="m", system="be brief", tools=[{"type": "agent_toolset_20260401"}]
    )
    session = await client.beta.sessions.create(
        agent=agent.id, environment_id=environment.id, title="t", metadata={"a": "b"}
    )
    assert session.id.startswith("sesn_")
    assert (session.status, session.title, session.metadata) == ("idle", "t", {"a": "b"})
    assert (session.agent.id, session.agent.version, session.agent.system) == (agent.id, 1, "be brief")
    assert session.agent.tools == agent.tools
    assert (session.resources, session.vault_ids, session.outcome_evaluations) == ([], [], [])
    assert (session.archived_at, session.budget, session.deployment_id) == (None, None, None)
    assert session.stats.active_seconds == 0
    assert session.usage.active_seconds == 0
    assert session.model_extra["last_seq"] == 0
    again = await client.beta.sessions.retrieve(session.id)
    assert again.stats.duration_seconds >= session.stats.duration_seconds >= 0
    assert again.model_copy(update={"stats": session.stats}) == session


async def test_a_session_pins_the_version_that_was_asked_for(client: AsyncAnthropic, agent: Any, environment: Any):
    await client.beta.agents.update(agent.id, system="second")
    newest = await client.beta.sessions.create(agent=agent.id, environment_id=environment.id)
    first = await client.beta.sessions.create(
        agent={"type": "agent", "id": agent.id, "version": 1}, environment_id=environment.id
    )
    assert (newest.agent.version, newest.agent.system) == (2, "second")
    assert (first.agent.version, first.agent.system) == (1, None)


async def test_overrides_inherit_clear_and_replace(client: AsyncAnthropic, environment: Any):
    agent = await client.beta.agents.create(
        name="n",
        model="m",
        system="s",
        tools=[{"type": "agent_toolset_20260401"}],
        skills=[{"type": "anthropic", "skill_id": "xlsx"}],
    )
    session = await client.beta.sessions.create(
        agent={"type": "agent_with_overrides", "id": agent.id, "model": "other", "system": None, "tools": []},
        environment_id=environment.id,
    )
    assert (session.agent.model.id, session.agent.system, session.agent.tools) == ("other", None, [])
    assert [skill.skill_id for skill in session.agent.skills] == ["xlsx"]
    assert (await client.beta.agents.retrieve(agent.id)).system == "s"


async def test_overrides_are_checked_as_an_agent_is(client: AsyncAnthropic, agent: Any, environment: Any):
    with pytest.raises(BadRequestError):
        await client.beta.sessions.create(
            agent={
                "type": "agent_with_overrides",
                "id": agent.id,
                "tools": [{"type": "mcp_toolset", "mcp_server_name": "nobody"}],
            },
            environment_id=environment.id,
        )


async def test_a_roster_is_shown_in_full(client: AsyncAnthropic, agent: Any, environment: Any):
    lead = await client.beta.agents.create(
        name="lead", model="m", multiagent={"type": "coordinator", "agents": [agent.id, {"type": "self"}]}
    )
    session = await client.beta.sessions.create(agent=lead.id, environment_id=environment.id)
    assert [entry.name for entry in session.agent.multiagent.agents] == ["tester", "lead"]


async def test_initial_events_are_queued_and_passed_on(
    client: AsyncAnthropic, api: Api, agent: Any, environment: Any
):
    session = await client.beta.sessions.create(
        agent=agent.id, environment_id=environment.id, initial_events=[HELLO, HELLO]
    )
    found = [event async for event in client.beta.sessions.events.list(session.id)]
    assert [event.type for event in found] == ["user.message", "user.message"]
    assert all(event.processed_at is None for event in found)
    assert (session.id, [event.id for event in found]) in api.submitter.told


async def test_a_session_that_cannot_have_its_events_is_not_made(
    client: AsyncAnthropic, agent: Any, environment: Any
):
    before = [s.id async for s in client.beta.sessions.list(agent_id=agent.id)]
    broken: Any = {
        "type": "user.message",
        "content": [{"type": "image", "source": {"type": "file", "file_id": "file_x"}}],
    }
    with pytest.raises(BadRequestError) as caught:
        await client.beta.sessions.create(
            agent=agent.id, environment_id=environment.id, initial_events=[HELLO, broken]
        )
    assert caught.value.body["error"]["field"] == "initial_events.1.content.0.source.file_id"
    assert [s.id async for s in client.beta.sessions.list(agent_id=agent.id)] == before


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"agent": 7}, "agent"),
        ({"agent": {"type": "agent"}}, "agent.id"),
        ({"agent": {"type": "agent", "id": "x", "version": 0}}, "agent.version"),
        ({"vault_ids": ["vlt_1", "vlt_1"]}, "vault_ids"),
        ({"resources": [{"type": "github_repository", "url": "https://github.com/a/b"}]}, "resources.0.type"),
        ({"resources": [{"type": "abacus"}]}, "resources.0"),
        ({"initial_events": [HELLO] * 51}, "initial_events"),
        ({"initial_events": [{"type": "user.interrupt"}]}, "initial_events.0"),
        ({"initial_events": [{"type": "user.define_outcome", "description": "d"}]}, "initial_events.0.type"),
        ({"budget": budget("05")}, "budget.max_list_cost.amount"),
        ({"budget": budget("-5")}, "budget.max_list_cost.amount"),
        ({"budget": budget("5", "EUR")}, "budget.max_list_cost.currency"),
        ({"metadata": {"k": None}}, "metadata.k"),
    ],
)  # fmt: skip
async def test_what_a_session_cannot_be_is_refused_with_its_field(
    client: AsyncAnthropic, agent: Any, environment: Any, fields: dict[str, Any], field: str
):
    with pytest.raises(BadRequestError) as caught:
        await client.beta.sessions.create(**{"agent": agent.id, "environment_id": environment.id, **fields})
    assert caught.value.body["error"]["field"] == field


@pytest.mark.parametrize("missing", ["agent", "environment_id"])
async def test_what_a_session_refers_to_must_be_there(
    client: AsyncAnthropic, agent: Any, environment: Any, missing: str
):
    references = {"agent": agent.id, "environment_id": environment.id, missing: "agent_00000000000000000000000000"}
    with pytest.raises(NotFoundError) as caught:
        await client.beta.sessions.create(**references)
    assert caught.value.body["error"]["field"] == missing


async def test_an_archived_agent_gets_no_session(client: AsyncAnthropic, agent: Any, environment: Any):
    await client.beta.agents.archive(agent.id)
    with pytest.raises(BadRequestError) as caught:
        await client.beta.sessions.create(agent=agent.id, environment_id=environment.id)
    assert caught.value.error_code == "agent_archived"


async def test_an_update_changes_and_says_so(client: AsyncAnthropic, session: Any):
    updated = await client.beta.sessions.update(session.id, title="new", metadata={"a": "1"})
    assert (updated.title, updated.metadata) == ("new", {"a": "1"})
    updated = await client.beta.sessions.update(session.id, metadata={"a": None, "b": "2"})
    assert updated.metadata == {"b": "2"}
    first, second = [event async for event in client.beta.sessions.events.list(session.id)]
    assert (first.type, first.title, first.metadata) == ("session.updated", "new", {"a": "1"})
    assert (second.metadata, "title" in second.model_fields_set) == ({"b": "2"}, False)
    assert first.processed_at is not None


async def test_an_update_that_changes_nothing_is_no_event(client: AsyncAnthropic, session: Any):
    await client.beta.sessions.update(session.id, title=None, metadata={"absent": None})
    assert [event async for event in client.beta.sessions.events.list(session.id)] == []


async def test_tools_can_be_changed_between_turns(client: AsyncAnthropic, session: Any):
    updated = await client.beta.sessions.update(session.id, agent={"tools": [{"type": "agent_toolset_20260401"}]})
    assert updated.agent.tools[0].type == "agent_toolset_20260401"
    [event] = [event async for event in client.beta.sessions.events.list(session.id)]
    assert event.agent == updated.agent


async def test_tools_cannot_be_changed_during_a_turn(client: AsyncAnthropic, running: Any):
    with pytest.raises(ConflictError) as caught:
        await client.beta.sessions.update(running.id, agent={"tools": []})
    assert caught.value.error_code == "session_running"
    assert (await client.beta.sessions.update(running.id, title="but this can")).title == "but this can"


async def test_a_budget_is_replaced_and_removed_but_never_added(client: AsyncAnthropic, agent: Any, environment: Any):
    session = await client.beta.sessions.create(agent=agent.id, environment_id=environment.id, budget=BUDGET)
    assert session.budget.max_list_cost.amount == "500"
    assert (await client.beta.sessions.update(session.id, budget=budget("900"))).budget.max_list_cost.amount == "900"
    assert (await client.beta.sessions.update(session.id, budget=None)).budget is None
    with pytest.raises(BadRequestError) as caught:
        await client.beta.sessions.update(session.id, budget=BUDGET)
    assert caught.value.error_code == "budget_create_only"
    events = [event async for event in client.beta.sessions.events.list(session.id)]
    assert [event.budget.max_list_cost.amount if event.budget else None for event in events] == ["900", None]


async def test_a_budget_below_what_was_spent_is_refused(client: AsyncAnthropic, agent: Any, environment: Any):
    session = await client.beta.sessions.create(agent=agent.id, environment_id=environment.id, budget=BUDGET)
    with pytest.raises(BadRequestError) as caught:
        await client.beta.sessions.update(session.id, budget=budget("0"))
    assert caught.value.error_code == "budget_not_raised"


async def test_vaults_cannot_be_changed(client: AsyncAnthropic, session: Any):
    with pytest.raises(BadRequestError):
        await client.beta.sessions.update(session.id, vault_ids=[])


async def test_an_archived_session_is_read_only(client: AsyncAnthropic, session: Any):
    archived = await client.beta.sessions.archive(session.id)
    assert archived.archived_at is not None
    assert (await client.beta.sessions.archive(session.id)).archived_at == archived.archived_at
    for attempt in (
        client.beta.sessions.update(session.id, title="x"),
        client.beta.sessions.events.send(session.id, events=[HELLO]),
        client.beta.sessions.resources.add(session.id, type="file", file_id="file_x"),
    ):
        with pytest.raises(BadRequestError) as caught:
            await attempt
        assert caught.value.error_code == "session_archived"


@pytest.mark.parametrize("verb", ["archive", "delete"])
async def test_a_running_session_is_not_put_away(client: AsyncAnthropic, running: Any, verb: str):
    with pytest.raises(ConflictError) as caught:
        await getattr(client.beta.sessions, verb)(running.id)
    assert caught.value.error_code == "session_running"
    assert "user.interrupt" in caught.value.body["error"]["next_step"]


async def test_a_deleted_session_is_gone_with_its_events(client: AsyncAnthropic, session: Any):
    await client.beta.sessions.events.send(session.id, events=[HELLO])
    deleted = await client.beta.sessions.delete(session.id)
    assert (deleted.id, deleted.type) == (session.id, "session_deleted")
    for attempt in (
        client.beta.sessions.retrieve(session.id),
        client.beta.sessions.delete(session.id),
        client.beta.sessions.events.list(session.id),
    ):
        with pytest.raises(NotFoundError) as caught:
            await attempt
        assert caught.value.error_code == "session_not_found"


async def test_a_terminated_session_takes_no_events(client: AsyncAnthropic, api: Api, session: Any):
    await set_status(api, session.id, "terminated")
    with pytest.raises(BadRequestError) as caught:
        await client.beta.sessions.events.send(session.id, events=[HELLO])
    assert caught.value.error_code == "session_terminated"


@pytest.fixture
async def three(client: AsyncAnthropic, agent: Any, environment: Any) -> list[Any]:
    """Three sessions of an agent of their own, oldest first."""
    return [await client.beta.sessions.create(agent=agent.id, environment_id=environment.id) for _ in range(3)]


async def test_sessions_are_listed_newest_first(client: AsyncAnthropic, agent: Any, three: list[Any]):
    found = [s.id async for s in client.beta.sessions.list(agent_id=agent.id, limit=2)]
    assert found == [s.id for s in reversed(three)]


async def test_sessions_can_be_listed_oldest_first(client: AsyncAnthropic, agent: Any, three: list[Any]):
    found = [s.id async for s in client.beta.sessions.list(agent_id=agent.id, order="asc", limit=1)]
    assert found == [s.id for s in three]


@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_a_listing_leads_back_to_where_it_began(
    client: AsyncAnthropic, agent: Any, three: list[Any], order: Any
):
    first = await client.beta.sessions.list(agent_id=agent.id, order=order, limit=1)
    second = await client.beta.sessions.list(agent_id=agent.id, order=order, limit=1, page=first.next_page)
    third = await client.beta.sessions.list(agent_id=agent.id, order=order, limit=1, page=second.next_page)
    assert (first.prev_page, third.next_page) == (None, None)
    back = await client.beta.sessions.list(agent_id=agent.id, order=order, limit=1, page=third.prev_page)
    assert [s.id for s in back.data] == [s.id for s in second.data]
    start = await client.beta.sessions.list(agent_id=agent.id, order=order, limit=1, page=back.prev_page)
    assert [s.id for s in start.data] == [s.id for s in first.data]
    assert (start.prev_page, start.next_page is not None) == (None, True)


@pytest.mark.parametrize(
    ("bound", "expected"),
    [
        ("created_at_gt", [2]),
        ("created_at_gte", [2, 1]),
        ("created_at_lt", [0]),
        ("created_at_lte", [1, 0]),
    ],
)
async def test_sessions_are_narrowed_by_time(
    client: AsyncAnthropic, agent: Any, three: list[Any], bound: str, expected: list[int]
):
    narrowed: Any = {bound: three[1].created_at}
    found = [s.id async for s in client.beta.sessions.list(agent_id=agent.id, **narrowed)]
    assert found == [three[index].id for index in expected]


async def test_sessions_are_narrowed_by_status(client: AsyncAnthropic, api: Api, agent: Any, three: list[Any]):
    await set_status(api, three[0].id, "terminated")
    await set_status(api, three[1].id, "rescheduling")
    found = [
        s.id async for s in client.beta.sessions.list(agent_id=agent.id, statuses=["terminated", "rescheduling"])
    ]
    assert found == [three[1].id, three[0].id]
    assert [s.id async for s in client.beta.sessions.list(agent_id=agent.id, statuses=["running"])] == []


async def test_sessions_are_narrowed_by_version(client: AsyncAnthropic, agent: Any, three: list[Any]):
    assert [s.id async for s in client.beta.sessions.list(agent_id=agent.id, agent_version=2)] == []
    assert len([s async for s in client.beta.sessions.list(agent_id=agent.id, agent_version=1)]) == len(three)


async def test_archived_sessions_are_hidden_unless_asked_for(client: AsyncAnthropic, agent: Any, three: list[Any]):
    await client.beta.sessions.archive(three[0].id)
    assert three[0].id not in [s.id async for s in client.beta.sessions.list(agent_id=agent.id)]
    shown = [s.id async for s in client.beta.sessions.list(agent_id=agent.id, include_archived=True)]
    assert three[0].id in shown


@pytest.mark.parametrize("narrowed", [{"deployment_id": "depl_1"}, {"memory_store_id": "memstore_1"}])
async def test_no_session_belongs_to_what_does_not_exist_yet(client: AsyncAnthropic, narrowed: Any):
    assert [s async for s in client.beta.sessions.list(**narrowed)] == []


async def test_a_session_has_one_thread(client: AsyncAnthropic, session: Any):
    [thread] = [t async for t in client.beta.sessions.threads.list(session.id)]
    assert thread.id.startswith("sthr_")
    assert (thread.session_id, thread.status, thread.parent_thread_id) == (session.id, "idle", None)
    assert thread.agent.name == session.agent.name
    assert await client.beta.sessions.threads.retrieve(thread.id, session_id=session.id) == thread


async def test_threads_are_narrowed_by_status(client: AsyncAnthropic, session: Any):
    assert [t async for t in client.beta.sessions.threads.list(session.id, statuses=["running"])] == []


async def test_another_thread_is_not_found(client: AsyncAnthropic, session: Any):
    with pytest.raises(NotFoundError) as caught:
        await client.beta.sessions.threads.retrieve("sthr_nobody", session_id=session.id)
    assert caught.value.error_code == "thread_not_found"


@pytest.mark.parametrize("verb", ["retrieve", "update", "archive", "delete"])
async def test_an_unknown_session_is_not_found(client: AsyncAnthropic, verb: str):
    with pytest.raises(NotFoundError):
        await getattr(client.beta.sessions, verb)("sesn_00000000000000000000000000")
