"""Timeouts of the durable machinery, each with the reason for its value.

Those that an environment variable may set are read once, when a process starts; every process of an installation has
the same. They are for tests that cannot wait, and for networks slower than any that was thought of.
"""

import os
from datetime import timedelta


def _seconds(variable: str, usual: float) -> timedelta:
    return timedelta(seconds=float(os.environ.get(variable, usual)))


TURN_TIMEOUT = timedelta(hours=24)
"""For one attempt; no agent that makes progress should meet it. `MAX_TURN_ATTEMPTS` bounds the attempts."""

TURN_HEARTBEAT_TIMEOUT = _seconds("BULKHEAD_HEARTBEAT_TIMEOUT_SECONDS", 10)
"""The second way to find a dead brain; the first is its lease in Postgres, which ends with its connection. It is what
finds a turn that Temporal handed to a brain in the moment of its death, before Postgres heard of it."""

WORKFLOW_TASK_TIMEOUT = _seconds("BULKHEAD_WORKFLOW_TASK_TIMEOUT_SECONDS", 5)
"""Likewise for a workflow's next step; far above what a step takes on a busy machine."""

HEARTBEAT_INTERVAL_SECONDS = 1.0
"""Heartbeats bring cancellations back, so this bounds how long an interrupt takes."""

TURN_RETRY_FIRST = timedelta(milliseconds=100)
TURN_RETRY_LONGEST = timedelta(seconds=5)
"""A turn fails over at once when its brain has died, and keeps trying while Postgres is away."""

MAX_TURN_CRASHES = 3
MAX_TURN_ATTEMPTS = 10
"""A turn at one and the same step of which so many workers died, or so many attempts failed, is given up: what is in
it may be the reason, and it takes others' turns with it each time."""

TOOL_HEARTBEAT_TIMEOUT = TURN_HEARTBEAT_TIMEOUT
TOOL_TIMEOUT = timedelta(hours=4)
"""Above the longest command (an hour, `harness_adapters/toolset`) plus provisioning."""

HOST_PATIENCE = _seconds("BULKHEAD_HOST_PATIENCE_SECONDS", 20)
"""How long a call waits for the host that holds its sandbox before it is looked up again where that is: longer than a
worker takes to be started again, far shorter than anybody waits for a host that is gone."""

OUTPUTS_PATIENCE = timedelta(seconds=30)
"""How long a turn's end waits until what it leaves is kept: more than ten large files and a dead worker take."""

MAX_TOOL_CRASHES = 10
"""A tool call that has ended its worker this often is given up, and the model is told."""

TOOL_PATIENCE = timedelta(minutes=5)
"""How long a tool call is tried again that fails at what may pass (the container engine or the proxy is away, or the
worker failed at something unforeseen): far longer than a restart takes, not for ever."""

IDLE_CLOSE = timedelta(hours=1)
"""A resting workflow costs history in Temporal; the next message starts a fresh run, which loses nothing."""

STICKY_TIMEOUT = timedelta(seconds=2)
"""How long a workflow waits for the worker that has it cached, should that worker be dead."""

SWEEP_SECONDS = 1.0
SWEEP_LOOKS = 3
"""How often workers look for dead workers, and in how many looks in a row a lease must be free: a worker that lost
its connection has it back within a fraction of a second."""

RECONCILE_SECONDS = 2.0
"""How long a recorded input may lie before its session is woken again; doubled at each repeat."""
RECONCILE_LONGEST_SECONDS = 60.0

KILL_WAIT_SECONDS = 10.0
"""How long a killed command may take to be gone: above the supervisor's grace between TERM and KILL."""

HEARTBEAT_THROTTLE = timedelta(seconds=1)
"""The SDK's default holds heartbeats back for most of the time-out, and with them the cancellations they bring."""

DRAIN = _seconds("BULKHEAD_DRAIN_SECONDS", 2)
"""How long a stopping brain lets turns go on; what is left goes on in another attempt. In a cluster, where
nobody waits for it to end, it may be longer."""

TOOL_DRAIN = _seconds("BULKHEAD_DRAIN_SECONDS", 1)
"""Likewise for a stopping sandbox worker; a command runs on in its sandbox, and the next attempt attaches to it."""

LAST_WORD = timedelta(seconds=2)
"""How long it then tries to record that a turn or a call was laid down; Postgres may be what is away."""

CONNECT_RETRY_SECONDS = 0.1
"""Temporal is up within a second of being started; nobody should wait longer than that for it."""

FIRE_TIMEOUT = timedelta(seconds=30)
"""For one attempt at recording and beginning a run, which is one transaction."""

FIRE_RETRY_LONGEST = timedelta(seconds=5)
FIRE_ATTEMPTS = 10
"""After which a run that cannot be begun, for a reason that nobody foresaw, is recorded as failed of it."""

SCHEDULE_HORIZON = 64
SCHEDULE_HORIZON_TIME = timedelta(hours=12)
SCHEDULE_HORIZON_LEAST = 4
"""How many fire times Temporal is given ahead: those of so long, but never more than the first number or fewer than
the last. A schedule of every minute is told of more every half hour, one of every day every other day."""

PROJECTION_TIMEOUT = timedelta(seconds=15)
"""For telling Temporal of one deployment: three calls of five seconds each."""

PROJECTION_LEASE = timedelta(seconds=30)
"""How long nobody else tells it. Twice the time-out, so that what a slow process says last is never the older."""

FIRE_PATIENCE_SECONDS = 10.0
"""How long after a fire time no run may be recorded before the reconciler fires it itself: far above what a firing
takes on a busy machine; it is for what Temporal has lost or was told too late."""
