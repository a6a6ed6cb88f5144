"""What model requests are booked as, whatever becomes of them."""

import asyncio
from decimal import Decimal
from typing import Any

import pytest

from controlplane.ids import new_id
from controlplane.models import TurnGate, token_hash
from controlplane.prices import Price, Rate
from controlplane.store import budgets, events, ledger, prices
from controlplane.store.budgets import BudgetContent, BudgetRecord
from controlplane.store.fence import lock_session
from controlplane.store.ledger import Outcome, RefusedError, Wanted
from controlplane.store.pool import Database
from controlplane.store.turns import PostgresTurns
from harness_adapters.contract import (
    Answer,
    ContextCompacted,
    ModelAnswered,
    ModelRequestFailed,
    ModelRequestStarted,
    Usage,
)
from tests.integration.store.conftest import WORKSPACE, Say
from workflows.contracts import TurnInput, TurnResult
from workflows.records import TurnStart

DOLLAR_A_TOKEN = Price(input=Rate(base=Decimal(1_000_000)), output=Rate(base=Decimal(1_000_000)))


class Books:
    """A session whose model costs a dollar a token, and the budget of its agent."""

    def __init__(self, database: Database, start: TurnStart, turns: PostgresTurns, budget_id: str):
        self.database = database
        self.start = start
        self.turns = turns
        self._budget_id = budget_id

    async def reserve(self, *, tokens: int = 10) -> str:
        """Begin a model request as brain and gateway do, and return its id."""
        request_id = new_id("sevt")
        await self.turns.model_request_started(self.start, ModelRequestStarted(request_id=request_id))
        await self.only_reserve(request_id, tokens=tokens)
        return request_id

    async def only_reserve(self, request_id: str, *, tokens: int = 10) -> None:
        """Reserve as the gateway does."""
        wanted = Wanted(request_id, "scripted/test", "scripted", "scripted/test", tokens)
        await TurnGate(self.database).reserve(token_hash(self.start.spec.gateway_token), wanted)

    async def settle(self, request_id: str, outcome: Outcome) -> bool:
        """Record what a request came to as the gateway does."""
        return await TurnGate(self.database).settle(request_id, outcome)

    async def usage(self) -> dict[str, Any]:
        """What the session shows of its usage."""
        async with self.database.transaction(WORKSPACE) as connection:
            found = await connection.execute(
                "SELECT usage FROM sessions WHERE id = %s", (self.start.input.session_id,)
            )
            row = await found.fetchone()
        assert row is not None
        return row["usage"]

    async def ends(self) -> list[dict[str, Any]]:
        """The ends of model requests that the session's log tells of."""
        async with self.database.transaction(WORKSPACE) as connection:
            found = await events.after(connection, self.start.input.session_id, 0)
        return [event.payload for event in found if event.type == "span.model_request_end"]

    async def budget(self) -> BudgetRecord:
        async with self.database.transaction(WORKSPACE) as connection:
            return await budgets.get(connection, self._budget_id)

    async def again(self) -> TurnStart | TurnResult:
        """Begin the next attempt."""
        return await self.turns.begin(self.start.input, worker_id="wrk_2", task_token=b"")


@pytest.fixture
async def books(database: Database, session_id: str, say: Say) -> Books:
    async with database.transaction(WORKSPACE) as connection:
        found = await connection.execute("SELECT agent_id FROM sessions WHERE id = %s", (session_id,))
        row = await found.fetchone()
        assert row is not None
        await prices.put(connection, WORKSPACE, model="scripted/test", price=DOLLAR_A_TOKEN)
        content = BudgetContent(
            name="b", agent_id=row["agent_id"], period="day", max_cost_usd=Decimal(100), max_tokens=None
        )
        budget = await budgets.create(connection, WORKSPACE, content)
    await say("one")
    turns = PostgresTurns(database, gateway_url="http://127.0.0.1:1")
    turn = TurnInput(session_id=session_id, workspace_id=WORKSPACE, turn_id=new_id("turn"))
    start = await turns.begin(turn, worker_id="wrk_1", task_token=b"")
    assert isinstance(start, TurnStart)
    return Books(database, start, turns, budget.id)


def answered(request_id: str, tokens: int) -> ModelAnswered:
    usage = Usage(output_tokens=tokens)
    return ModelAnswered(answer=Answer(request_id=request_id, blocks=[]), usage=usage, stop_reason="end_turn")


COUNTED = Usage(
    input_tokens=1,
    cache_read_input_tokens=2,
    cache_creation_input_tokens=1,
    output_tokens=3,
    reasoning_tokens=2,
)


async def test_a_settlement_replaces_its_reservation_once_and_the_brain_tells_what_it_was(books: Books) -> None:
    request = await books.reserve(tokens=10)
    assert (await books.budget()).reserved_usd == 10
    assert await books.settle(request, Outcome("metered", COUNTED, status=200, first_byte_ms=12))
    await books.turns.model_answered(books.start, answered(request, 999))
    async with books.database.transaction(WORKSPACE) as connection:
        await ledger.release(connection, books.start.input.session_id, [request], "lost")
    assert not await books.settle(request, Outcome("lost"))
    budget = await books.budget()
    assert (budget.cost_usd, budget.tokens, budget.reserved_usd, budget.reserved_tokens) == (7, 7, 0, 0)
    end = (await books.ends())[0]
    assert (end["model_usage"], end["cost_usd"], "model" in end) == (COUNTED.model_dump(), "7", False)
    usage = await books.usage()
    assert {name: usage[name] for name in Usage.model_fields} == COUNTED.model_dump()
    assert usage["cost_usd"] == "7"


async def test_usage_adds_up_where_requests_are_settled(books: Books) -> None:
    for _ in range(2):
        request = await books.reserve(tokens=1)
        await books.settle(request, Outcome("metered", COUNTED))
    assert {name: (await books.usage())[name] // 2 for name in Usage.model_fields} == COUNTED.model_dump()


async def test_the_request_for_a_summary_is_told_as_it_was_booked(books: Books) -> None:
    request = await books.reserve(tokens=10)
    await books.settle(request, Outcome("metered", COUNTED))
    compacted = ContextCompacted(
        event_id=new_id("sevt"),
        request_id=request,
        summary="s",
        kept_from=None,
        tokens_before=1,
        usage=Usage(output_tokens=999),
    )
    await books.turns.context_compacted(books.start, compacted)
    end = (await books.ends())[0]
    assert (end["model_usage"], end["cost_usd"]) == (COUNTED.model_dump(), "7")
    assert (await books.usage())["output_tokens"] == COUNTED.output_tokens


async def test_an_answer_whose_gateway_never_settled_is_booked_as_its_reservation(books: Books) -> None:
    request = await books.reserve(tokens=10)
    await books.turns.model_answered(books.start, answered(request, 3))
    budget = await books.budget()
    assert (budget.cost_usd, budget.reserved_usd) == (10, 0)
    assert (await books.ends())[0]["cost_usd"] == "10"


async def test_an_estimate_is_marked_as_one(books: Books) -> None:
    request = await books.reserve(tokens=10)
    await books.settle(request, Outcome("lost", Usage(input_tokens=10, output_tokens=4)))
    await books.turns.model_answered(books.start, answered(request, 0))
    end = (await books.ends())[0]
    assert (end["usage_estimated"], end["model_usage"]["output_tokens"], end["cost_usd"]) == (True, 4, "14")


async def test_a_model_that_stands_in_is_booked_at_its_own_price_and_named(books: Books) -> None:
    request = await books.reserve(tokens=10)
    token = token_hash(books.start.spec.gateway_token)
    async with books.database.transaction(WORKSPACE) as connection:
        half = Price(input=Rate(base=Decimal(500_000)), output=Rate(base=Decimal(500_000)))
        await prices.put(connection, WORKSPACE, model="scripted/other", price=half)
    other = Wanted(request, "scripted/other", "scripted", "scripted/other", 10, fallback_for="scripted/test")
    await TurnGate(books.database).fall_back(token, other, left="free")
    budget = await books.budget()
    assert (budget.reserved_usd, budget.reserved_tokens, budget.cost_usd) == (5, 10, 0)
    await books.settle(request, Outcome("metered", Usage(output_tokens=4)))
    await books.turns.model_answered(books.start, answered(request, 4))
    end = (await books.ends())[0]
    assert (end["model"], end["cost_usd"]) == ("scripted/other", "2")


async def test_what_the_model_before_may_have_cost_stays_booked(books: Books) -> None:
    request = await books.reserve(tokens=10)
    other = Wanted(request, "scripted/test", "scripted", "scripted/test", 10, fallback_for="scripted/test")
    await TurnGate(books.database).fall_back(token_hash(books.start.spec.gateway_token), other, left="lost")
    budget = await books.budget()
    assert (budget.cost_usd, budget.reserved_usd) == (10, 10)


async def test_a_model_that_is_too_dear_does_not_stand_in_and_nothing_has_changed(books: Books) -> None:
    request = await books.reserve(tokens=10)
    other = Wanted(request, "unpriced", "nobody", "unpriced", 10, fallback_for="scripted/test")
    with pytest.raises(RefusedError) as refused:
        await TurnGate(books.database).fall_back(token_hash(books.start.spec.gateway_token), other, left="lost")
    assert refused.value.code == "unpriced"
    budget = await books.budget()
    assert (budget.cost_usd, budget.reserved_usd) == (0, 10)


async def test_what_runs_counts_as_spent_and_what_is_over_is_refused(books: Books) -> None:
    await books.reserve(tokens=100)
    with pytest.raises(RefusedError, match=r"the budget 'b' of \$100 is taken by requests that run now") as refused:
        await books.reserve(tokens=1)
    assert refused.value.code == "budget_reached"


@pytest.mark.parametrize(("kind", "cost"), [("overloaded", 0), ("authentication", 0), ("interrupted_stream", 10)])
async def test_a_request_that_failed_costs_what_it_may_have_cost(books: Books, kind: str, cost: int) -> None:
    failed = ModelRequestFailed.model_validate({"request_id": await books.reserve(), "kind": kind, "message": "m"})
    await books.turns.model_request_failed(books.start, failed)
    budget = await books.budget()
    assert (budget.cost_usd, budget.reserved_usd) == (cost, 0)


async def test_the_next_attempt_books_what_the_dead_one_had_asked(books: Books) -> None:
    await books.reserve()
    assert isinstance(await books.again(), TurnStart)
    budget = await books.budget()
    assert (budget.cost_usd, budget.reserved_usd) == (10, 0)


async def test_an_attempt_that_was_superseded_reserves_nothing(books: Books) -> None:
    """The old attempt's request reaches the gateway when the next attempt has begun already."""
    late = new_id("sevt")
    await books.turns.model_request_started(books.start, ModelRequestStarted(request_id=late))
    assert isinstance(await books.again(), TurnStart)
    with pytest.raises(RefusedError) as refused:
        await books.only_reserve(late)
    assert refused.value.code == "turn_ended"
    assert (await books.budget()).reserved_usd == 0


@pytest.mark.parametrize("meanwhile", ["status = 'ended'", "model_token_hash = 'another'"])
async def test_a_turn_that_ends_while_its_request_waits_for_a_lock_reserves_nothing(
    books: Books, meanwhile: Any
) -> None:
    async with books.database.transaction(WORKSPACE) as connection:
        await lock_session(connection, books.start.input.session_id)
        waiting = asyncio.create_task(books.only_reserve(new_id("sevt")))
        await asyncio.sleep(0.3)
        await connection.execute(f"UPDATE turns SET {meanwhile} WHERE id = %s", (books.start.input.turn_id,))  # noqa: S608
    with pytest.raises(RefusedError) as refused:
        await waiting
    assert refused.value.code == "turn_ended"


async def test_a_freeze_that_comes_while_a_turn_waits_for_its_session_is_seen(books: Books) -> None:
    session_id = books.start.input.session_id

    async def is_frozen() -> bool:
        async with books.database.transaction(WORKSPACE) as connection:
            return (await lock_session(connection, session_id)).frozen

    async with books.database.transaction(WORKSPACE) as holding:
        row = await (
            await holding.execute("SELECT agent_id FROM sessions WHERE id = %s FOR UPDATE", (session_id,))
        ).fetchone()
        assert row is not None
        waiting = asyncio.create_task(is_frozen())
        await asyncio.sleep(0.3)
        async with books.database.transaction(WORKSPACE) as connection:
            await connection.execute("UPDATE agents SET frozen_at = now() WHERE id = %s", (row["agent_id"],))
    assert await waiting


async def test_nothing_is_reserved_for_a_turn_that_has_ended(books: Books) -> None:
    await books.turns.end(books.start, "interrupted")
    with pytest.raises(RefusedError) as refused:
        await books.only_reserve(new_id("sevt"))
    assert refused.value.code == "turn_ended"
    assert (await books.budget()).reserved_usd == 0
