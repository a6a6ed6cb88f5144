"""Workflows that began under an older version of the code go on under this one."""

import asyncio
from pathlib import Path

import pytest
from temporalio import workflow
from temporalio.client import WorkflowHistory
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.worker import Replayer

from workflows.contracts import INTERRUPT_SIGNAL, SESSION_WORKFLOW, WAKE_SIGNAL, SessionInput
from workflows.session import SessionWorkflow

HISTORIES = sorted(Path(__file__).with_name("histories").glob("*.json"))


@pytest.mark.parametrize("path", HISTORIES, ids=lambda path: path.stem)
async def test_the_history_replays(path: Path) -> None:
    await replay(path, SessionWorkflow)


@pytest.mark.parametrize("path", HISTORIES, ids=lambda path: path.stem)
async def test_a_change_that_breaks_replay_is_noticed(path: Path) -> None:
    """The workflow as it would be if somebody let it wait a moment before its first turn."""
    with pytest.raises(workflow.NondeterminismError):
        await replay(path, HastyChange)


@workflow.defn(name=SESSION_WORKFLOW, sandboxed=False)
class HastyChange(SessionWorkflow):
    @workflow.init
    def __init__(self, start: SessionInput) -> None:
        super().__init__(start)

    @workflow.run
    async def run(self, start: SessionInput) -> None:
        await asyncio.sleep(1)
        await super().run(start)

    @workflow.signal(name=WAKE_SIGNAL)
    def wake(self) -> None:
        super().wake()

    @workflow.signal(name=INTERRUPT_SIGNAL)
    def interrupt(self) -> None:
        super().interrupt()


async def replay(path: Path, definition: type[SessionWorkflow]) -> None:
    history = WorkflowHistory.from_json("session", path.read_text())
    await Replayer(workflows=[definition], data_converter=pydantic_data_converter).replay_workflow(history)


def test_there_is_something_to_replay() -> None:
    assert HISTORIES
    ends = [WorkflowHistory.from_json("session", path.read_text()).events[-1] for path in HISTORIES]
    assert any(end.HasField("workflow_execution_continued_as_new_event_attributes") for end in ends)
