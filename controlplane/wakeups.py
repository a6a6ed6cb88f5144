"""Tells a session's workflow that its queue holds something: at once after the commit, then until it is taken."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

import psycopg
import structlog
from temporalio.client import Client
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.service import RPCError

from controlplane.store import expiry, idempotency, neglect
from controlplane.store.events import Event
from controlplane.store.neglect import Neglected
from controlplane.store.pool import ALL_WORKSPACES, Database
from workflows.contracts import (
    BRAIN_QUEUE,
    INTERRUPT_SIGNAL,
    SESSION_WORKFLOW,
    WAKE_SIGNAL,
    SessionInput,
    session_workflow_id,
)
from workflows.limits import RECONCILE_LONGEST_SECONDS, RECONCILE_SECONDS, WORKFLOW_TASK_TIMEOUT

_log = structlog.get_logger(__name__)

_RPC_TIMEOUT = timedelta(seconds=5)
_WAKES_AT_ONCE = 20
"""By the reconciler: while Temporal hangs, each takes its time-out."""
_AWAY = (RPCError, RuntimeError)
"""What a call raises while Temporal is away: the second from a client that has never been connected."""


class Submitter(Protocol):
    """Tells the workflow of a session that its queue has grown."""

    def submitted(self, workspace_id: str, session_id: str, events: Sequence[Event]) -> None:
        """Pass on that ``events`` were committed; never raises and never blocks."""
        ...


class Wakeups:
    """Signals session workflows, starting them where none runs.

    A signal needs no worker to be alive, and one that is lost costs time only: the queue is rows in Postgres, and
    `Reconciler` wakes a session until its inputs are taken.
    """

    def __init__(self, client: Client):
        self._client = client
        self._tasks: set[asyncio.Task[None]] = set()

    def submitted(self, workspace_id: str, session_id: str, events: Sequence[Event]) -> None:
        """Wake the session in the background; called after the commit, never raises."""
        interrupt = any(event.type == "user.interrupt" for event in events)
        task = asyncio.create_task(self.try_wake(workspace_id, session_id, interrupt=interrupt))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def wake(self, workspace_id: str, session_id: str, *, interrupt: bool = False) -> None:
        """Wake the session; raises `RPCError` if Temporal does not answer."""
        await self._client.start_workflow(
            SESSION_WORKFLOW,
            SessionInput(session_id=session_id, workspace_id=workspace_id),
            id=session_workflow_id(session_id),
            task_queue=BRAIN_QUEUE,
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            task_timeout=WORKFLOW_TASK_TIMEOUT,
            start_signal=INTERRUPT_SIGNAL if interrupt else WAKE_SIGNAL,
            rpc_timeout=_RPC_TIMEOUT,
        )

    async def try_wake(self, workspace_id: str, session_id: str, *, interrupt: bool) -> None:
        """Wake the session, or leave it to the reconciler's next round."""
        try:
            await self.wake(workspace_id, session_id, interrupt=interrupt)
        except _AWAY as error:
            _log.warning("wakeup_failed", session_id=session_id, cause=str(error))


_KEY_LIFETIME = timedelta(hours=24)
"""Longer than any client repeats a request."""


@dataclass
class _Repeat:
    due: float
    pause_seconds: float


class Reconciler:
    """Decides calls that nobody has decided in time, and wakes sessions whose inputs have waited too long.

    Any number may run.
    """

    def __init__(self, *, database: Database, wakeups: Wakeups):
        self._database = database
        self._wakeups = wakeups
        self._repeats: dict[str, _Repeat] = {}

    async def run(self) -> None:
        """Reconcile until cancelled; what fails is tried again at the next round, and holds nothing else up."""
        while True:
            for step in (self._expire, self._wake):
                try:
                    await step()
                except psycopg.Error as error:
                    _log.warning("reconcile_failed", cause=str(error).strip())
                except Exception:  # noqa: BLE001 - a reconciler that stops is worse than one that failed
                    _log.warning("reconcile_failed", exc_info=True)
            await asyncio.sleep(RECONCILE_SECONDS / 2)

    async def _wake(self) -> None:
        async with self._database.transaction(ALL_WORKSPACES) as connection:
            await idempotency.forget(connection, older_than=_KEY_LIFETIME)
            neglected = await neglect.sessions(connection, older_than=timedelta(seconds=RECONCILE_SECONDS))
        names = {each.session_id for each in neglected}
        self._repeats = {key: value for key, value in self._repeats.items() if key in names}
        now, turns = asyncio.get_running_loop().time(), asyncio.Semaphore(_WAKES_AT_ONCE)

        async def wake(each: Neglected) -> None:
            async with turns:
                _log.info("session_rewoken", session_id=each.session_id)
                await self._wakeups.try_wake(each.workspace_id, each.session_id, interrupt=each.interrupt)

        due: list[Neglected] = []
        for each in neglected:
            repeat = self._repeats.setdefault(each.session_id, _Repeat(due=now, pause_seconds=RECONCILE_SECONDS))
            if repeat.due <= now:
                due.append(each)
                repeat.due = now + repeat.pause_seconds
                repeat.pause_seconds = min(repeat.pause_seconds * 2, RECONCILE_LONGEST_SECONDS)
        await asyncio.gather(*(wake(each) for each in due))

    async def _expire(self) -> None:
        async with self._database.transaction(ALL_WORKSPACES) as connection:
            calls = await expiry.expired(connection)
        for call in calls:
            try:
                async with self._database.transaction(call.workspace_id) as connection:
                    said = await expiry.expire(connection, call)
            except Exception:  # noqa: BLE001 - one that fails must not hold up those behind it
                _log.warning("approval_not_expired", tool_use_id=call.id, exc_info=True)
                continue
            if said:
                _log.info(
                    "approval_expired", session_id=call.session_id, tool_use_id=call.id, decision=call.on_expiry
                )
                self._wakeups.submitted(call.workspace_id, call.session_id, said)
