"""The Temporal workers: of sessions and turns, of firings, of memory, and of tool calls on a host."""

from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from temporalio.client import Client
from temporalio.worker import Worker
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions

from workflows.contracts import BRAIN_QUEUE, MEMORY_QUEUE, SANDBOX_QUEUE, SCHEDULE_QUEUE, host_queue
from workflows.hands import ToolRunner
from workflows.limits import DRAIN, HEARTBEAT_THROTTLE, STICKY_TIMEOUT, TOOL_DRAIN
from workflows.outputs import OutputRunner
from workflows.reembed import ReembedActivities, ReembedWorkflow
from workflows.remembering import MemoryRunner
from workflows.schedule import DeploymentWorkflow, FiringRunner
from workflows.session import SessionWorkflow
from workflows.turn import TurnRunner

_BUILD_ID = f"bulkhead-{version('bulkhead')}"
"""Without one the SDK hashes every module that is loaded: half a second of each process's start."""

_FIRINGS_AT_ONCE = 8
"""Each holds a connection of the API's pool for some milliseconds."""


def brain_worker(client: Client, turns: TurnRunner, *, max_concurrent_turns: int) -> Worker:
    """The worker that holds sessions and runs their turns."""
    return Worker(
        client,
        build_id=_BUILD_ID,
        task_queue=BRAIN_QUEUE,
        workflows=[SessionWorkflow],
        activities=[turns.run_turn],
        max_concurrent_activities=max_concurrent_turns,
        max_cached_workflows=200,
        sticky_queue_schedule_to_start_timeout=STICKY_TIMEOUT,
        max_heartbeat_throttle_interval=HEARTBEAT_THROTTLE,
        default_heartbeat_throttle_interval=HEARTBEAT_THROTTLE,
        graceful_shutdown_timeout=DRAIN,
        workflow_task_executor=ThreadPoolExecutor(max_workers=4, thread_name_prefix="workflow"),
        workflow_runner=_sandboxed(),
    )


def schedule_worker(client: Client, firings: FiringRunner) -> Worker:
    """The worker that fires deployments."""
    return Worker(
        client,
        build_id=_BUILD_ID,
        task_queue=SCHEDULE_QUEUE,
        workflows=[DeploymentWorkflow],
        activities=[firings.fire_deployment],
        max_concurrent_activities=_FIRINGS_AT_ONCE,
        max_cached_workflows=200,
        sticky_queue_schedule_to_start_timeout=STICKY_TIMEOUT,
        graceful_shutdown_timeout=DRAIN,
        workflow_task_executor=ThreadPoolExecutor(max_workers=2, thread_name_prefix="firing"),
        workflow_runner=_sandboxed(),
    )


def memory_worker(
    client: Client, tools: MemoryRunner, vectors: ReembedActivities, *, max_concurrent_tool_calls: int
) -> Worker:
    """The worker that runs the memory tools, and moves memory to another embedding model."""
    return Worker(
        client,
        build_id=_BUILD_ID,
        task_queue=MEMORY_QUEUE,
        workflows=[ReembedWorkflow],
        activities=[tools.run_tool, vectors.fill, vectors.switch, vectors.drop],
        max_concurrent_activities=max_concurrent_tool_calls,
        max_heartbeat_throttle_interval=HEARTBEAT_THROTTLE,
        default_heartbeat_throttle_interval=HEARTBEAT_THROTTLE,
        graceful_shutdown_timeout=TOOL_DRAIN,
        workflow_task_executor=ThreadPoolExecutor(max_workers=1, thread_name_prefix="workflow"),
        workflow_runner=_sandboxed(),
    )


@asynccontextmanager
async def sandbox_workers(
    client: Client, tools: ToolRunner, outputs: OutputRunner, *, host: str, max_concurrent_tool_calls: int
) -> AsyncGenerator[None]:
    """The workers that run tool calls: those of sessions without a sandbox, and those for this host's sandboxes.

    Each takes up to so many; how many of both run at a time is the runner's to say (`ToolRunner`).
    """
    everywhere: list[Callable[..., Any]] = [tools.run_tool]
    here = [*everywhere, outputs.keep_outputs]
    first, second = (
        _sandbox_worker(client, activities, queue, most=max_concurrent_tool_calls)
        for queue, activities in ((SANDBOX_QUEUE, everywhere), (host_queue(host), here))
    )
    async with first, second:
        yield


def _sandboxed() -> SandboxedWorkflowRunner:
    return SandboxedWorkflowRunner(
        restrictions=SandboxRestrictions.default.with_passthrough_modules("workflows", "pydantic")
    )


def _sandbox_worker(client: Client, activities: list[Callable[..., Any]], queue: str, *, most: int) -> Worker:
    return Worker(
        client,
        build_id=_BUILD_ID,
        task_queue=queue,
        activities=activities,
        max_concurrent_activities=most,
        max_heartbeat_throttle_interval=HEARTBEAT_THROTTLE,
        default_heartbeat_throttle_interval=HEARTBEAT_THROTTLE,
        graceful_shutdown_timeout=TOOL_DRAIN,
    )
