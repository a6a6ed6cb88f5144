"""A worker that dies between two steps of a call: what the next one does of it."""

from controlplane.store.journal import PostgresJournal
from harness_adapters.contract import TextBlock, ToolOutcome
from tests.support.house import Hands
from tests.support.memory import Mind


async def test_the_first_run_of_a_command_sees_memory_though_a_worker_died_before_it(mind: Mind, hands: Hands):
    store = await mind.store()
    await mind.save(store, "/plan.md", "one")
    await mind.attach(hands.house.session_id, store)
    call = await hands.dispatch("cat /mnt/memory/notes/plan.md")
    box = await hands.house.ensure()
    await PostgresJournal(hands.house.database).bind(call, box.id)
    assert await hands.run(call) == ("confirmed", "one")


async def test_a_result_and_the_end_of_its_sandbox_are_recorded_together(hands: Hands):
    call = await hands.dispatch("true")
    box = await hands.house.ensure()
    outcome = ToolOutcome(tool_use_id=call.tool_use_id, content=[TextBlock(text="done")])
    await PostgresJournal(hands.house.database).finish(call, "confirmed", outcome, spent=box.id)
    assert "left processes that could not be ended" in await hands.house.receipt()


async def test_a_call_that_waits_for_another_sandbox_is_bound_to_none(hands: Hands):
    call = await hands.dispatch("echo ran")
    box = await hands.house.ensure()
    journal = PostgresJournal(hands.house.database)
    await journal.bind(call, box.id)
    await journal.bind(call, None)
    condemned = await hands.house.keeper.condemn(box)
    assert condemned is not None
    await hands.house.keeper.put_away(condemned)
    state, said = await hands.run(call)
    assert state == "confirmed"
    assert "ran" in said
