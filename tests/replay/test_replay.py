"""Workflows that began under an older version of the code go on under this one."""

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from temporalio import workflow
from temporalio.api.enums.v1 import EventType
from temporalio.client import WorkflowFailureError, WorkflowHistory
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.worker import Replayer, UnsandboxedWorkflowRunner, Worker

from controlplane.ids import new_id
from workflows.connection import TemporalServer, connect_patiently
from workflows.contracts import INTERRUPT_SIGNAL, SESSION_WORKFLOW, WAKE_SIGNAL, SessionInput, session_workflow_id
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


@workflow.defn(name=SESSION_WORKFLOW)
class OtherRelease:
    """What a release might have been that began a session quite differently."""

    @workflow.run
    async def run(self, start: SessionInput) -> None:
        """Begin with something that the session's workflow does not do."""
        await workflow.execute_activity("greet", start_to_close_timeout=timedelta(hours=1))

    @workflow.signal(name=WAKE_SIGNAL)
    def wake(self) -> None:
        """Take no notice."""


async def test_a_run_that_cannot_be_replayed_makes_room_for_another(temporal_address: str) -> None:
    client = await connect_patiently(TemporalServer(temporal_address))
    queue, workflow_id = f"brain-{new_id('wrk')}", session_workflow_id(new_id("sesn"))
    start = SessionInput(session_id="sesn_1", workspace_id="wrkspc_1")
    as_is: Any = {"task_queue": queue, "max_cached_workflows": 0, "workflow_runner": UnsandboxedWorkflowRunner()}
    async with Worker(client, workflows=[OtherRelease], **as_is):
        begun = await client.start_workflow(SESSION_WORKFLOW, start, id=workflow_id, task_queue=queue)
        async with asyncio.timeout(20):
            while (await begun.fetch_history()).events[-1].event_type != EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
    async with Worker(client, workflows=[SessionWorkflow], **as_is):
        await begun.signal(WAKE_SIGNAL)
        with pytest.raises(WorkflowFailureError) as failed:
            async with asyncio.timeout(30):
                await begun.result()
        assert "Nondeterminism" in repr(failed.value.cause)
        again = await client.start_workflow(
            SESSION_WORKFLOW, start, id=workflow_id, task_queue=queue, start_signal=WAKE_SIGNAL
        )
        assert again.first_execution_run_id != begun.first_execution_run_id
        await again.terminate()
