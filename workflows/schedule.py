"""One workflow per firing of a deployment's schedule: it has the run recorded and begun, however often that takes."""

from datetime import datetime
from typing import Protocol

from temporalio import activity, workflow
from temporalio.common import RetryPolicy

with workflow.unsafe.imports_passed_through():
    from workflows.contracts import (
        DEPLOYMENT_WORKFLOW,
        FIRE_DEPLOYMENT,
        DeploymentInput,
        FiringInput,
        schedule_id,
    )
    from workflows.limits import FIRE_ATTEMPTS, FIRE_RETRY_LONGEST, FIRE_TIMEOUT, TURN_RETRY_FIRST


class Firings(Protocol):
    """Deployments, as the scheduler needs them."""

    async def fire(self, firing: FiringInput, *, give_up: bool) -> None:
        """Record the run of a firing and begin it, or record why not; doing it again changes nothing.

        ``give_up``: where it cannot be begun for a reason that nobody foresaw, record that.
        """
        ...


@workflow.defn(name=DEPLOYMENT_WORKFLOW, failure_exception_types=[workflow.NondeterminismError])
class DeploymentWorkflow:
    """A firing. It ends when the run is recorded.

    The run itself goes on in Postgres, until its session rests: what overlaps with what is decided there, for runs
    that people and deliveries start as well as for these, and every firing that is left out has a record.
    """

    @workflow.run
    async def run(self, start: DeploymentInput) -> None:
        """Have the firing recorded; Postgres or the API being away only delays it."""
        fire_at = workflow.info().workflow_id.removeprefix(schedule_id(start.deployment_id) + "-")
        firing = FiringInput(
            deployment_id=start.deployment_id,
            workspace_id=start.workspace_id,
            fire_at=datetime.fromisoformat(fire_at),
        )
        await workflow.execute_activity(
            FIRE_DEPLOYMENT,
            firing,
            start_to_close_timeout=FIRE_TIMEOUT,
            retry_policy=RetryPolicy(
                initial_interval=TURN_RETRY_FIRST, maximum_interval=FIRE_RETRY_LONGEST, backoff_coefficient=2
            ),
        )


class FiringRunner:
    """Runs the activity of a firing."""

    def __init__(self, firings: Firings):
        self._firings = firings

    @activity.defn(name=FIRE_DEPLOYMENT)
    async def fire_deployment(self, firing: FiringInput) -> None:
        """Record and begin the run; what nobody foresaw is tried a few times, and is then the run's error."""
        await self._firings.fire(firing, give_up=activity.info().attempt > FIRE_ATTEMPTS)
