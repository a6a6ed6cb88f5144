import asyncio
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from controlplane.ids import new_id
from controlplane.prices import Price, Rate
from controlplane.store import events, neglect, prices, resuming, sessions
from controlplane.store.events import NewEvent
from controlplane.store.journal import PostgresJournal
from controlplane.store.pool import ALL_WORKSPACES, Database
from controlplane.store.resuming import FailedFilter
from controlplane.store.turns import PostgresTurns
from harness_adapters.contract import (
    Answer,
    AnswerText,
    ContextCompacted,
    ModelAnswered,
    ModelRequestFailed,
    ModelRequestStarted,
    TextBlock,
    TextDelta,
    ToolOutcome,
    ToolUse,
    Usage,
    UserInput,
    summarized,
)
from tests.integration.store.conftest import WORKSPACE, Say
from workflows.contracts import ToolCallInput, TurnInput, TurnResult
from workflows.limits import MAX_TURN_ATTEMPTS, MAX_TURN_CRASHES
from workflows.records import SupersededError, TurnStart


@pytest.fixture
def turns(database: Database) -> PostgresTurns:
    return PostgresTurns(database, gateway_url="http://127.0.0.1:1")


@pytest.fixture
def journal(database: Database) -> PostgresJournal:
    return PostgresJournal(database)


def turn_of(session_id: str, turn_id: str = "turn_1") -> TurnInput:
    return TurnInput(session_id=session_id, workspace_id=WORKSPACE, turn_id=turn_id)


async def begun(turns: PostgresTurns, turn: TurnInput) -> TurnStart:
    start = await turns.begin(turn, worker_id="wrk_1", task_token=b"token")
    assert isinstance(start, TurnStart)
    return start


async def types(database: Database, session_id: str) -> list[str]:
    async with database.transaction(WORKSPACE) as connection:
        return [event.type for event in await events.after(connection, session_id, 0)]


async def ends(database: Database, session_id: str) -> list[bool | None]:
    async with database.transaction(WORKSPACE) as connection:
        found = await events.after(connection, session_id, 0)
    return [event.payload.get("interrupted") for event in found if event.type == "session.status_idle"]


def answer(*blocks: Any, request_id: str | None = None) -> ModelAnswered:
    request = request_id or new_id("sevt")
    usage = Usage(input_tokens=3, output_tokens=2)
    return ModelAnswered(answer=Answer(request_id=request, blocks=list(blocks)), usage=usage, stop_reason="tool_use")


def use() -> ToolUse:
    return ToolUse(event_id=new_id("sevt"), name="sandbox_execute", input={"command": "true"})


def outcome(of: ToolUse, text: str = "done") -> ToolOutcome:
    return ToolOutcome(tool_use_id=of.event_id, content=[TextBlock(text=text)])


async def test_a_turn_takes_one_message_and_says_that_there_is_more(
    turns: PostgresTurns, session_id: str, say: Say
) -> None:
    await say("one", "two")
    start = await begun(turns, turn_of(session_id))
    assert [item.content[0].text for item in start.history if isinstance(item, UserInput)] == ["one"]  # type: ignore[union-attr]
    assert await turns.end(start, "end_turn") == TurnResult(reason="end_turn", more=True)


async def test_a_turn_with_an_empty_queue_records_nothing(
    turns: PostgresTurns, database: Database, session_id: str
) -> None:
    result = await turns.begin(turn_of(session_id), worker_id="wrk_1", task_token=b"")
    assert result == TurnResult(reason="nothing_to_do")
    assert await types(database, session_id) == []


async def test_a_turn_that_has_ended_is_not_run_again(turns: PostgresTurns, session_id: str, say: Say) -> None:
    await say("one")
    start = await begun(turns, turn_of(session_id))
    await turns.end(start, "end_turn")
    again = await turns.begin(turn_of(session_id), worker_id="wrk_2", task_token=b"")
    assert again == TurnResult(reason="end_turn", more=False)


async def test_an_older_attempt_is_refused_everywhere(
    turns: PostgresTurns, journal: PostgresJournal, database: Database, session_id: str, say: Say
) -> None:
    await say("one")
    old = await begun(turns, turn_of(session_id))
    called = use()
    await turns.model_answered(old, answer(called))
    new = await begun(turns, turn_of(session_id))
    assert (old.attempt, new.attempt) == (1, 2)
    before = await types(database, session_id)
    started = ModelRequestStarted(request_id=new_id("sevt"))
    failed = ModelRequestFailed(request_id=new_id("sevt"), kind="unknown", message="no")
    for write in (
        turns.model_request_started(old, started),
        turns.model_answered(old, answer(use())),
        turns.model_request_failed(old, failed),
        turns.end(old, "end_turn"),
        journal.dispatch(old, called),
        journal.refuse(old, called, outcome(called)),
    ):
        with pytest.raises(SupersededError):
            await write
    assert await types(database, session_id) == before


async def test_the_next_attempt_closes_the_lost_model_request_and_keeps_the_answer(
    turns: PostgresTurns, database: Database, session_id: str, say: Say
) -> None:
    await say("one")
    first = await begun(turns, turn_of(session_id))
    kept = AnswerText(event_id=new_id("sevt"), text="kept")
    request = new_id("sevt")
    await turns.model_request_started(first, ModelRequestStarted(request_id=request))
    await turns.model_answered(first, answer(kept, use(), request_id=request))
    await turns.model_request_started(first, ModelRequestStarted(request_id=new_id("sevt")))
    second = await begun(turns, turn_of(session_id))
    assert isinstance(second.history[-1], Answer)
    assert (await types(database, session_id))[-3:] == [
        "span.model_request_end",
        "session.status_rescheduled",
        "session.status_running",
    ]


async def failure(database: Database, session_id: str) -> dict[str, Any] | None:
    async with database.transaction(WORKSPACE) as connection:
        return (await sessions.get(connection, session_id)).failure


async def test_a_turn_that_kills_its_workers_at_one_step_is_given_up_with_the_evidence(
    turns: PostgresTurns, database: Database, session_id: str, say: Say
) -> None:
    await say("one")
    for n in range(MAX_TURN_CRASHES):
        assert isinstance(await turns.begin(turn_of(session_id), worker_id=f"wrk_{n}", task_token=b""), TurnStart)
    result = await turns.begin(turn_of(session_id), worker_id="wrk_last", task_token=b"")
    assert result == TurnResult(reason="retries_exhausted")
    assert (await types(database, session_id))[-2:] == ["session.error", "session.status_idle"]
    found = await failure(database, session_id)
    assert found and (found["status"], found["cause"]) == ("exhausted", "worker_crashed")
    assert [(e["worker_id"], e["ending"]) for e in found["evidence"]] == [
        (f"wrk_{n}", "crashed") for n in range(MAX_TURN_CRASHES)
    ]


async def test_a_turn_that_gets_on_between_two_crashes_is_not_given_up(
    turns: PostgresTurns, database: Database, session_id: str, say: Say
) -> None:
    await say("one")
    for n in range(2 * MAX_TURN_CRASHES):
        start = await turns.begin(turn_of(session_id), worker_id=f"wrk_{n}", task_token=b"")
        assert isinstance(start, TurnStart)
        request = new_id("sevt")
        await turns.model_request_started(start, ModelRequestStarted(request_id=request))
        await turns.model_answered(start, answer(AnswerText(event_id=new_id("sevt"), text="on"), request_id=request))


async def test_attempts_that_were_stopped_or_cut_off_are_no_crashes(
    turns: PostgresTurns, database: Database, session_id: str, say: Say
) -> None:
    await say("one")
    for n in range(2 * MAX_TURN_CRASHES):
        start = await turns.begin(turn_of(session_id), worker_id=f"wrk_{n}", task_token=b"")
        assert isinstance(start, TurnStart)
        await turns.attempt_ended(start, "stopped")
    for _ in range(MAX_TURN_ATTEMPTS):
        assert isinstance(await turns.begin(turn_of(session_id), worker_id="wrk_same", task_token=b""), TurnStart)
    result = await turns.begin(turn_of(session_id), worker_id="wrk_same", task_token=b"")
    assert result == TurnResult(reason="retries_exhausted")
    found = await failure(database, session_id)
    assert found and (found["cause"], len(found["evidence"])) == ("attempts_failed", MAX_TURN_ATTEMPTS)


async def test_a_failure_stays_with_the_session_until_another_turn_begins(
    turns: PostgresTurns, database: Database, session_id: str, say: Say
) -> None:
    await say("one")
    start = await begun(turns, turn_of(session_id))
    await turns.model_request_failed(
        start, ModelRequestFailed(request_id="sevt_1", kind="overloaded", message="busy", retry_in_seconds=1)
    )
    found = await failure(database, session_id)
    assert found and (found["status"], found["cause"], found["message"]) == ("retrying", "overloaded", "busy")
    await turns.model_request_started(start, ModelRequestStarted(request_id=new_id("sevt")))
    assert await failure(database, session_id) is None
    await turns.model_request_failed(
        start, ModelRequestFailed(request_id="sevt_2", kind="authentication", message="no key")
    )
    await turns.end(start, "retries_exhausted")
    found = await failure(database, session_id)
    assert found and (found["status"], found["turn_id"]) == ("terminal", "turn_1")
    await say("two")
    await begun(turns, turn_of(session_id, "turn_2"))
    assert await failure(database, session_id) is None


async def test_failed_sessions_are_resumed_at_their_time_and_not_before(
    turns: PostgresTurns, database: Database, session_id: str, say: Say
) -> None:
    await say("one")
    start = await begun(turns, turn_of(session_id))
    await turns.model_request_failed(
        start, ModelRequestFailed(request_id="sevt_1", kind="overloaded", message="busy")
    )
    await turns.end(start, "retries_exhausted")
    async with database.transaction(WORKSPACE) as connection:
        wanted = FailedFilter(statuses=["exhausted"], causes=["overloaded"])
        assert session_id in await resuming.failed(connection, wanted, limit=1000)
        assert session_id not in await resuming.failed(connection, FailedFilter(causes=["billing"]), limit=1000)
        await resuming.want(connection, session_id, after_seconds=0.5)
        assert session_id not in await resuming.failed(connection, wanted, limit=1000)
        due = await neglect.sessions(connection, older_than=timedelta(0))
        assert session_id not in {each.session_id for each in due}
    early = await turns.begin(turn_of(session_id, "turn_2"), worker_id="wrk_1", task_token=b"")
    assert early == TurnResult(reason="nothing_to_do")
    await asyncio.sleep(0.6)
    async with database.transaction(ALL_WORKSPACES) as connection:
        due = await neglect.sessions(connection, older_than=timedelta(0))
        assert session_id in {each.session_id for each in due}
    await begun(turns, turn_of(session_id, "turn_2"))


async def test_a_new_turn_takes_over_one_that_its_workflow_has_forgotten(
    turns: PostgresTurns, session_id: str, say: Say
) -> None:
    await say("one")
    old = await begun(turns, turn_of(session_id, "turn_old"))
    new = await begun(turns, turn_of(session_id, "turn_new"))
    assert (new.history, new.input, new.attempt) == (old.history, old.input, 2)
    with pytest.raises(SupersededError):
        await turns.end(old, "end_turn")


async def test_an_interrupt_that_a_dead_brain_did_not_obey_ends_the_turn(
    turns: PostgresTurns, database: Database, session_id: str, say: Say
) -> None:
    await say("one", "two")
    start = await begun(turns, turn_of(session_id))
    await turns.model_request_started(start, ModelRequestStarted(request_id=new_id("sevt")))
    async with database.transaction(WORKSPACE) as connection:
        await events.append(connection, session_id, [NewEvent(type="user.interrupt", queued=True)])
    result = await turns.begin(turn_of(session_id, "turn_2"), worker_id="wrk_2", task_token=b"")
    assert result == TurnResult(reason="interrupted", more=True)
    assert (await types(database, session_id))[-2:] == ["span.model_request_end", "session.status_idle"]
    assert await ends(database, session_id) == [True], "its end says that it was stopped"
    await turns.end(await begun(turns, turn_of(session_id, "turn_3")), "end_turn")
    assert await ends(database, session_id) == [True, None], "and the next one's says nothing of the kind"


async def test_what_postgres_cannot_keep_is_replaced(
    turns: PostgresTurns, database: Database, session_id: str, say: Say
) -> None:
    await say("one")
    start = await begun(turns, turn_of(session_id))
    await turns.model_answered(start, answer(AnswerText(event_id=new_id("sevt"), text="a\x00b\ud800c")))
    async with database.transaction(WORKSPACE) as connection:
        recorded = await events.after(connection, session_id, 0)
    said = [event.payload["content"][0]["text"] for event in recorded if event.type == "agent.message"]
    assert said == ["a\ufffdb\ufffdc"]


async def test_a_preview_of_any_text_is_no_reason_to_fail(turns: PostgresTurns, session_id: str, say: Say) -> None:
    await say("one")
    start = await begun(turns, turn_of(session_id))
    for text in ("😀" * 5000, "\x1b" * 5000, "\x00"):
        await turns.preview(start, TextDelta(event_id=new_id("sevt"), text=text))


async def test_a_tool_call_is_dispatched_once_and_has_one_outcome(
    turns: PostgresTurns, journal: PostgresJournal, database: Database, session_id: str, say: Say
) -> None:
    await say("one")
    start = await begun(turns, turn_of(session_id))
    called = use()
    await turns.model_answered(start, answer(called))
    call = ToolCallInput(tool_use_id=called.event_id, session_id=session_id, workspace_id=WORKSPACE)
    assert (await journal.dispatch(start, called)).state == "dispatched"
    assert (await journal.start(call, worker_id="wrk_s", task_token=b"")).sandbox_id is None
    await journal.bind(call, "sbx_1")
    assert (await journal.start(call, worker_id="wrk_s", task_token=b"")).sandbox_id == "sbx_1"
    both = await asyncio.gather(
        journal.finish(call, "confirmed", outcome(called, "first")),
        journal.finish(call, "unknown", outcome(called, "second")),
    )
    assert both[0] == both[1]
    row = await journal.dispatch(start, called)
    assert (row.state in {"confirmed", "unknown"}, row.outcome) == (True, both[0])
    assert (await types(database, session_id)).count("agent.tool_result") == 1


async def test_no_tool_use_is_left_without_a_result_when_a_turn_ends(
    turns: PostgresTurns, journal: PostgresJournal, database: Database, session_id: str, say: Say
) -> None:
    await say("one", "two")
    start = await begun(turns, turn_of(session_id))
    never, started = use(), use()
    await turns.model_answered(start, answer(never, started))
    await journal.dispatch(start, started)
    await turns.end(start, "interrupted")
    following = await begun(turns, turn_of(session_id, "turn_2"))
    said = {i.tool_use_id: i.content[0] for i in following.history if isinstance(i, ToolOutcome)}
    assert said[never.event_id].text.startswith("Not run")  # type: ignore[union-attr]
    assert said[started.event_id].text.startswith("Outcome unknown")  # type: ignore[union-attr]


async def test_concurrent_writers_leave_no_gap_in_the_log(database: Database, session_id: str, say: Say) -> None:
    await asyncio.gather(*(say("a", "b") for _ in range(20)))
    async with database.transaction(WORKSPACE) as connection:
        recorded = await events.after(connection, session_id, 0)
    assert [event.seq for event in recorded] == list(range(1, 41))


async def test_row_level_security_hides_other_workspaces_and_everything_where_none_is_named(
    database: Database, session_id: str
) -> None:
    for workspace, expected in ((WORKSPACE, 1), ("wrkspc_other", 0), ("", 0), ("*", 1)):
        async with database.transaction(workspace) as connection:
            cursor = await connection.execute("SELECT count(*) AS n FROM sessions")
            row = await cursor.fetchone()
            assert row is not None
            assert row["n"] == expected, workspace


async def test_an_interrupt_calls_off_a_resumption_that_is_still_to_come(
    turns: PostgresTurns, database: Database, session_id: str, say: Say
) -> None:
    await say("one")
    start = await begun(turns, turn_of(session_id))
    await turns.model_request_failed(
        start, ModelRequestFailed(request_id="sevt_1", kind="overloaded", message="busy")
    )
    await turns.end(start, "retries_exhausted")
    async with database.transaction(WORKSPACE) as connection:
        await resuming.want(connection, session_id, after_seconds=0.3)
        await events.append(connection, session_id, [NewEvent(type="user.interrupt", queued=True)])
    nothing = TurnResult(reason="nothing_to_do")
    assert await turns.begin(turn_of(session_id, "turn_2"), worker_id="wrk_1", task_token=b"") == nothing
    await asyncio.sleep(0.4)
    assert await turns.begin(turn_of(session_id, "turn_3"), worker_id="wrk_1", task_token=b"") == nothing


@pytest.mark.parametrize("thawed_first", [True, False])
async def test_what_comes_to_rest_in_the_frost_goes_on_whenever_the_thaw_came(
    turns: PostgresTurns, database: Database, session_id: str, say: Say, thawed_first: bool
) -> None:
    await say("one")
    start = await begun(turns, turn_of(session_id))
    async with database.transaction(WORKSPACE) as connection:
        agent_id = (await sessions.get(connection, session_id)).agent.id
        await connection.execute("UPDATE agents SET frozen_at = now() WHERE id = %s", (agent_id,))
    await turns.model_request_failed(
        start, ModelRequestFailed(request_id="sevt_1", kind="agent_frozen", message="frozen")
    )
    if thawed_first:
        async with database.transaction(WORKSPACE) as connection:
            await connection.execute("UPDATE agents SET frozen_at = NULL WHERE id = %s", (agent_id,))
    await turns.end(start, "retries_exhausted")
    found = await turns.begin(turn_of(session_id, "turn_2"), worker_id="wrk_1", task_token=b"")
    assert isinstance(found, TurnStart) == thawed_first


@pytest.mark.parametrize("when", ["before its end", "during its end", "never"])
async def test_what_comes_to_rest_for_want_of_a_price_goes_on_if_one_was_set_meanwhile(
    turns: PostgresTurns, database: Database, session_id: str, say: Say, when: str
) -> None:
    price = Price(input=Rate(base=Decimal(1)), output=Rate(base=Decimal(1)))
    await say("one")
    start = await begun(turns, turn_of(session_id))
    unpriced = ModelRequestFailed(request_id="sevt_1", kind="unpriced", message="no price")
    await turns.model_request_failed(start, unpriced)
    if when == "during its end":
        async with database.transaction(WORKSPACE) as connection:
            await prices.put(connection, WORKSPACE, model="scripted/*", price=price)
            assert await resuming.resting_unpriced(connection) == []
            ending = asyncio.create_task(turns.end(start, "budget_reached"))
            await asyncio.sleep(0.3)
        await ending
    else:
        if when == "before its end":
            async with database.transaction(WORKSPACE) as connection:
                await prices.put(connection, WORKSPACE, model="scripted/*", price=price)
        await turns.end(start, "budget_reached")
    found = await turns.begin(turn_of(session_id, "turn_2"), worker_id="wrk_1", task_token=b"")
    assert isinstance(found, TurnStart) == (when != "never")


async def test_a_summary_is_there_for_the_next_attempt_and_counts_as_a_step(
    turns: PostgresTurns, database: Database, session_id: str, say: Say
) -> None:
    await say("long ago", "now")
    first = await begun(turns, turn_of(session_id))
    await turns.model_answered(first, answer(AnswerText(event_id=new_id("sevt"), text="heard")))
    await turns.end(first, "end_turn")
    for n in range(MAX_TURN_CRASHES):
        start = await turns.begin(turn_of(session_id, "turn_2"), worker_id=f"wrk_{n}", task_token=b"")
        assert isinstance(start, TurnStart)
    kept = start.history[-1]
    assert isinstance(kept, UserInput)
    request = new_id("sevt")
    await turns.model_request_started(start, ModelRequestStarted(request_id=request))
    summary = ContextCompacted(
        event_id=new_id("sevt"), request_id=request, summary="notes", kept_from=kept.event_id, tokens_before=9,
        usage=Usage(output_tokens=3),
    )  # fmt: skip
    await turns.context_compacted(start, summary)
    again = await turns.begin(turn_of(session_id, "turn_2"), worker_id="wrk_last", task_token=b"")
    assert isinstance(again, TurnStart)
    assert again.history == [summarized(summary.event_id, "notes"), kept]


async def test_a_failure_that_was_being_retried_does_not_outlive_the_attempt(
    turns: PostgresTurns, database: Database, session_id: str, say: Say
) -> None:
    await say("one")
    start = await begun(turns, turn_of(session_id))
    await turns.model_request_failed(
        start, ModelRequestFailed(request_id="sevt_1", kind="overloaded", message="busy", retry_in_seconds=1)
    )
    assert await failure(database, session_id) is not None
    await begun(turns, turn_of(session_id))
    assert await failure(database, session_id) is None
