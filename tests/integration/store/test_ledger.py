"""What model requests are booked as, whatever becomes of them."""

from decimal import Decimal

import pytest

from controlplane.ids import new_id
from controlplane.prices import Price, Rate
from controlplane.store import budgets, ledger, prices
from controlplane.store.budgets import BudgetContent, BudgetRecord
from controlplane.store.ledger import RefusedError, Wanted
from controlplane.store.pool import Database
from controlplane.store.turns import PostgresTurns
from harness_adapters.contract import Answer, ModelAnswered, ModelRequestFailed, ModelRequestStarted, Usage
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
        async with self.database.transaction(WORKSPACE) as connection:
            await ledger.reserve(connection, self.start.input.turn_id, wanted)

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


async def test_an_answer_replaces_its_reservation_once(books: Books) -> None:
    request = await books.reserve(tokens=10)
    assert (await books.budget()).reserved_usd == 10
    await books.turns.model_answered(books.start, answered(request, 7))
    async with books.database.transaction(WORKSPACE) as connection:
        await ledger.release(connection, books.start.input.session_id, [request], "lost")
    budget = await books.budget()
    assert (budget.cost_usd, budget.tokens, budget.reserved_usd, budget.reserved_tokens) == (7, 7, 0, 0)


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


async def test_a_reservation_that_comes_late_is_not_left_open(books: Books) -> None:
    """The old attempt's request reaches the gateway when the next attempt has begun already."""
    late = new_id("sevt")
    await books.turns.model_request_started(books.start, ModelRequestStarted(request_id=late))
    second = await books.again()
    assert isinstance(second, TurnStart)
    await books.only_reserve(late)
    await books.turns.end(second, "end_turn")
    budget = await books.budget()
    assert (budget.cost_usd, budget.reserved_usd) == (10, 0)


async def test_nothing_is_reserved_for_a_turn_that_has_ended(books: Books) -> None:
    await books.turns.end(books.start, "interrupted")
    with pytest.raises(RefusedError) as refused:
        await books.only_reserve(new_id("sevt"))
    assert refused.value.code == "turn_ended"
    assert (await books.budget()).reserved_usd == 0
