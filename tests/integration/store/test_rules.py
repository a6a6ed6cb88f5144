"""How rules and decisions act on the journal."""

import asyncio
from datetime import datetime, timedelta
from typing import Any, Literal

import pytest

from controlplane.errors import ConflictError
from controlplane.ids import new_id
from controlplane.store import approvals, calls, expiry, neglect, rules
from controlplane.store.approvals import CallDecision
from controlplane.store.calls import CallRecord
from controlplane.store.journal import PostgresJournal
from controlplane.store.judging import Judge
from controlplane.store.pool import ALL_WORKSPACES, Database
from controlplane.store.rules import RuleContent, RuleRecord
from controlplane.store.turns import PostgresTurns
from harness_adapters.contract import Answer, ModelAnswered, TextBlock, ToolOutcome, ToolUse, Usage
from tests.integration.store.conftest import WORKSPACE, Say
from workflows.contracts import ToolCallInput, TurnInput
from workflows.records import TurnStart
from workflows.rules import Condition


class Case:
    """A turn of a session, and what is said about its calls."""

    def __init__(self, database: Database, session_id: str):
        judge = Judge(expiry_seconds=100)
        self.database = database
        self.session_id = session_id
        self.turns = PostgresTurns(database, gateway_url="http://127.0.0.1:1", judge=judge)
        self.journal = PostgresJournal(database, judge=judge)

    async def begin(self) -> TurnStart:
        turn = TurnInput(session_id=self.session_id, workspace_id=WORKSPACE, turn_id=new_id("turn"))
        start = await self.turns.begin(turn, worker_id="wrk_1", task_token=b"")
        assert isinstance(start, TurnStart)
        return start

    async def wanted(self, start: TurnStart, command: str = "ls", name: str = "sandbox_execute") -> ToolUse:
        """A call that the model has asked for."""
        use = ToolUse(event_id=new_id("sevt"), name=name, input={"command": command})
        said = Answer(request_id=new_id("sevt"), blocks=[use])
        await self.turns.model_answered(start, ModelAnswered(answer=said, usage=Usage(), stop_reason="tool_use"))
        return use

    async def rule(self, verdict: Literal["allow", "ask", "deny"], *, scope: str = "", **more: Any) -> RuleRecord:
        content = RuleContent(
            scope=scope or self.session_id, verdict=verdict, **{"tool": "*", "arguments": [], **more}
        )
        async with self.database.transaction(WORKSPACE) as connection:
            return await rules.create(connection, WORKSPACE, content=content, by="key_a")

    async def row(self, use: ToolUse) -> CallRecord:
        async with self.database.transaction(WORKSPACE) as connection:
            found = await calls.listing(connection, self.session_id, beyond=None, limit=100)
        return next(call for call in found if call.id == use.event_id)

    async def decide(self, use: ToolUse, kind: Literal["allow", "deny"], **more: Any) -> None:
        decision = CallDecision(tool_use_id=use.event_id, kind=kind, by="key_b", **more)
        async with self.database.transaction(WORKSPACE) as connection:
            await connection.execute("SELECT FROM sessions WHERE id = %s FOR UPDATE", (self.session_id,))
            await approvals.decide(connection, self.session_id, decision, field="tool_use_id")

    async def run(self, sql: Any, *parameters: Any) -> None:
        async with self.database.transaction(WORKSPACE) as connection:
            await connection.execute(sql, parameters)

    async def expire(self) -> int:
        """Do what a reconciler does; return how many calls it decided."""
        async with self.database.transaction(ALL_WORKSPACES) as connection:
            due = await expiry.expired(connection)
        decided = 0
        for each in due:
            async with self.database.transaction(WORKSPACE) as connection:
                decided += len(await expiry.expire(connection, each))
        return decided


@pytest.fixture
async def case(database: Database, session_id: str, say: Say) -> Case:
    await say("one")
    return Case(database, session_id)


def text(outcome: ToolOutcome | None) -> str:
    assert outcome is not None
    return " ".join(block.text for block in outcome.content if isinstance(block, TextBlock))


LS = Condition.model_validate({"command": [{"program": "ls"}]})


async def test_the_rules_of_a_session_precede_its_agent_s_and_those_the_workspace_s(case: Case) -> None:
    start = await case.begin()
    async with case.database.transaction(WORKSPACE) as connection:
        cursor = await connection.execute("SELECT agent_id FROM sessions")
        row: Any = await cursor.fetchone()
    expected = [
        await case.rule("deny", position=5),
        await case.rule("allow", position=7),
        await case.rule("ask", scope=row["agent_id"], position=1),
        await case.rule("allow", scope="workspace", position=0),
    ]
    for rule in expected:
        use = await case.wanted(start)
        called = await case.row(use)
        assert (called.verdict, called.rule_id) == (rule.verdict, rule.id)
        await case.run("DELETE FROM rules WHERE id = %s", rule.id)
    assert (await case.row(await case.wanted(start))).rule_id is None


async def test_a_rule_that_comes_between_the_answer_and_the_call_holds(case: Case) -> None:
    start = await case.begin()
    denied, asked, allowed = [await case.wanted(start) for _ in range(3)]
    assert (await case.row(denied)).verdict == "allow"
    rule = await case.rule("deny", reason="not any more")
    row = await case.journal.dispatch(start, denied)
    assert (row.state, row.outcome is not None and row.outcome.is_error) == ("refused", True)
    assert rule.id in text(row.outcome)
    assert "not any more" in text(row.outcome)
    called = await case.row(denied)
    assert (called.verdict, called.rule_id) == ("deny", rule.id)
    await case.run("UPDATE rules SET verdict = 'ask', expires_after_seconds = 60, on_expiry = 'allow'")
    assert (await case.journal.dispatch(start, asked)).state == "intended"
    called = await case.row(asked)
    assert (called.verdict, called.rule_id, called.on_expiry) == ("ask", rule.id, "allow")
    await case.run("DELETE FROM rules")
    assert (await case.journal.dispatch(start, allowed)).state == "dispatched"


async def test_an_expired_rule_holds_no_more(case: Case) -> None:
    start = await case.begin()
    await case.rule("deny", expires_at=datetime.fromisoformat("2020-01-01T00:00:00+00:00"))
    assert (await case.journal.dispatch(start, await case.wanted(start))).state == "dispatched"


async def test_a_rule_of_another_session_holds_only_there(case: Case, database: Database) -> None:
    start = await case.begin()
    other = new_id("sesn")
    await case.run(
        "INSERT INTO sessions SELECT (jsonb_populate_record(s, jsonb_build_object('id', %s::text))).*"
        " FROM sessions s",
        other,
    )
    await case.rule("deny", scope=other)
    assert (await case.journal.dispatch(start, await case.wanted(start))).state == "dispatched"


async def test_what_was_allowed_is_not_run_if_a_rule_denies_it_by_then(case: Case) -> None:
    start = await case.begin()
    rule = await case.rule("ask")
    use = await case.wanted(start)
    await case.journal.dispatch(start, use)
    await case.decide(use, "allow")
    await case.run("UPDATE rules SET verdict = 'deny' WHERE id = %s", rule.id)
    assert (await case.journal.dispatch(start, use)).state == "refused"


async def test_a_call_runs_with_the_edited_arguments_and_its_result_says_so(case: Case) -> None:
    start = await case.begin()
    await case.rule("ask")
    use = await case.wanted(start, "rm -rf /")
    await case.journal.dispatch(start, use)
    await case.decide(use, "allow", edited_input={"command": "ls"})
    row = await case.journal.dispatch(start, use)
    assert (row.state, row.input) == ("dispatched", {"command": "ls"})
    call = ToolCallInput(tool_use_id=use.event_id, session_id=case.session_id, workspace_id=WORKSPACE)
    assert (await case.journal.start(call, worker_id="w", task_token=b"")).input == {"command": "ls"}
    done = ToolOutcome(tool_use_id=use.event_id, content=[TextBlock(text="done")])
    finished = await case.journal.finish(call, "confirmed", done)
    assert 'changed its arguments to {"command": "ls"}' in text(finished)
    assert text(finished).endswith("done")
    again = await case.journal.read(call)
    assert again is not None
    assert again.outcome == finished
    called = await case.row(use)
    assert (called.input, called.edited_input) == ({"command": "rm -rf /"}, {"command": "ls"})


async def test_allowing_for_the_session_allows_the_same_input_and_no_other(case: Case) -> None:
    start = await case.begin()
    await case.rule("ask", scope="workspace")
    use = await case.wanted(start, "ls *")
    await case.journal.dispatch(start, use)
    await case.decide(use, "allow", remember=True)
    same, other = await case.wanted(start, "ls *"), await case.wanted(start, "ls x")
    assert (await case.journal.dispatch(start, same)).state == "dispatched"
    assert (await case.journal.dispatch(start, other)).state == "intended"
    async with case.database.transaction(WORKSPACE) as connection:
        (rule,) = await rules.listing(connection, scope=case.session_id, offset=0, limit=9)
    assert (rule.created_by, (await case.row(same)).rule_id) == ("key_b", rule.id)


async def test_a_refused_decision_leaves_no_rule(case: Case) -> None:
    start = await case.begin()
    rule = await case.rule("ask")
    use = await case.wanted(start)
    await case.run("UPDATE rules SET verdict = 'deny' WHERE id = %s", rule.id)
    with pytest.raises(ConflictError):
        await case.decide(use, "allow", remember=True)
    called = await case.row(use)
    assert called.decision is None
    async with case.database.transaction(WORKSPACE) as connection:
        assert len(await rules.listing(connection, scope=None, offset=0, limit=9)) == 1


@pytest.mark.parametrize("on_expiry", ["allow", "deny"])
async def test_a_call_that_nobody_decides_is_decided_once_when_its_time_is_over(
    case: Case, on_expiry: Literal["allow", "deny"]
) -> None:
    start = await case.begin()
    await case.rule("ask", expires_after_seconds=50, on_expiry=on_expiry)
    use = await case.wanted(start)
    await case.turns.end(start, "requires_action")
    called = await case.row(use)
    assert called.expires_at is not None
    assert round((called.expires_at - called.intended_at).total_seconds()) == 50
    assert await case.expire() == 0
    await case.run("UPDATE tool_calls SET expires_at = clock_timestamp()")
    assert sum(await asyncio.gather(*(case.expire() for _ in range(5)))) == 1
    called = await case.row(use)
    assert (called.decision, called.decided_by) == (on_expiry, "expiry")
    with pytest.raises(ConflictError, match="by expiry"):
        await case.decide(use, "allow")
    async with case.database.transaction(ALL_WORKSPACES) as connection:
        assert [each.session_id for each in await neglect.sessions(connection, older_than=timedelta(0))]
    row = await case.journal.dispatch(await case.begin(), use)
    if on_expiry == "allow":
        assert row.state == "dispatched"
    else:
        assert "nobody decided about this call until" in text(row.outcome)


async def test_the_general_time_holds_where_no_rule_says_and_archived_sessions_are_left_alone(case: Case) -> None:
    start = await case.begin()
    await case.rule("ask")
    called = await case.row(await case.wanted(start))
    assert called.expires_at is not None
    assert round((called.expires_at - called.intended_at).total_seconds()) == 100
    assert called.on_expiry == "deny"
    await case.run("UPDATE tool_calls SET expires_at = clock_timestamp()")
    await case.run("UPDATE sessions SET archived_at = now()")
    assert await case.expire() == 0


async def test_rules_and_decisions_at_once_do_not_lock_one_another_out(case: Case) -> None:
    start = await case.begin()
    await case.rule("ask", scope="workspace")
    uses = [await case.wanted(start, f"ls {n}") for n in range(8)]
    await asyncio.gather(
        *(case.decide(use, "allow", remember=True) for use in uses),
        *(case.rule("allow", arguments=[LS], position=999) for _ in range(8)),
    )
    async with case.database.transaction(WORKSPACE) as connection:
        found = await rules.listing(connection, scope=case.session_id, offset=0, limit=99)
    assert len(found) == 16
