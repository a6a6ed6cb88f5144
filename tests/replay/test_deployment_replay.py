"""Firings that began under an older version of the code go on under this one."""

import json
from pathlib import Path

import pytest
from temporalio import workflow
from temporalio.client import WorkflowHistory
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.worker import Replayer

from workflows.contracts import DEPLOYMENT_WORKFLOW, DeploymentInput, schedule_id
from workflows.schedule import DeploymentWorkflow

HISTORIES = sorted((Path(__file__).with_name("histories") / "deployments").glob("*.json"))


@workflow.defn(name=DEPLOYMENT_WORKFLOW, sandboxed=False)
class HastyChange(DeploymentWorkflow):
    """The workflow as it would be if somebody let it wait a moment first."""

    @workflow.run
    async def run(self, start: DeploymentInput) -> None:
        """Wait, then go on."""
        await workflow.sleep(1)
        await super().run(start)


async def replay(path: Path, definition: type[DeploymentWorkflow]) -> None:
    text = path.read_text()
    started = json.loads(text)["events"][0]["workflowExecutionStartedEventAttributes"]
    history = WorkflowHistory.from_json(started["workflowId"], text)
    assert history.workflow_id.startswith(schedule_id("depl_"))
    await Replayer(workflows=[definition], data_converter=pydantic_data_converter).replay_workflow(history)


@pytest.mark.parametrize("path", HISTORIES, ids=lambda path: path.stem)
async def test_the_history_replays(path: Path) -> None:
    await replay(path, DeploymentWorkflow)


@pytest.mark.parametrize("path", HISTORIES, ids=lambda path: path.stem)
async def test_a_change_that_breaks_replay_is_noticed(path: Path) -> None:
    with pytest.raises(workflow.NondeterminismError):
        await replay(path, HastyChange)


def test_there_is_something_to_replay() -> None:
    assert HISTORIES
