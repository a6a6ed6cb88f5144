"""Everything that is open, looked at again several times a second: is it still allowed, and does it still move?"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable
from time import monotonic
from typing import Literal

import structlog

from sandbox.egress.channel import SocketChannel
from sandbox.egress.contract import PolicySource, SandboxPolicy
from sandbox.egress.limits import (
    BODY_STALL_SECONDS,
    DECISION_SECONDS,
    HEAD_SECONDS,
    IDLE_SECONDS,
    KEEP_ALIVE_SECONDS,
    TICK_DECISION_SECONDS,
    TICK_SECONDS,
)

_log = structlog.get_logger(__name__)
CutReason = Literal["revoked", "slow_sender", "undecided", "idle", "client_left"]
StillAllowed = Callable[[SandboxPolicy], bool]
_Expected = tuple[float, CutReason, bool]
"""What is waited for: so many seconds, what it is if it does not come, and whether every byte renews the time."""

_HEAD: _Expected = (HEAD_SECONDS, "slow_sender", False)
_DECISION: _Expected = (DECISION_SECONDS, "undecided", False)
_BODY: _Expected = (BODY_STALL_SECONDS, "slow_sender", True)
_BYTES: _Expected = (IDLE_SECONDS, "idle", True)
_REQUEST: _Expected = (KEEP_ALIVE_SECONDS, "idle", True)


class Watched:
    """One client connection with its task and sockets. ``cut`` says why it was ended, if it was."""

    def __init__(self, sandbox_id: str, task: asyncio.Task[None]):
        self.sandbox_id = sandbox_id
        self.channels: list[SocketChannel] = []
        self.cut: CutReason | None = None
        self.is_open = False
        self.answering = False
        """A client waits for an answer: if it leaves, nobody else does."""
        self._task = task
        self._epoch = 0
        self._still_allowed: StillAllowed = lambda _: True
        self._expected = _HEAD
        self._since = monotonic()

    def reading_head(self) -> None:
        """A head or a handshake has begun: it has a time of its own, however it trickles."""
        self._expected, self._since = _HEAD, monotonic()

    def deciding(self) -> None:
        """The store or the audit is asked."""
        self._expected, self._since = _DECISION, monotonic()

    def uploading(self) -> None:
        """A request's body is on its way."""
        self._expected, self._since = _BODY, monotonic()

    def carrying(self) -> None:
        """Bytes may move in either direction."""
        self._expected, self._since = _BYTES, monotonic()

    def keeping_alive(self) -> None:
        """Nothing is asked at the moment."""
        self._expected, self._since = _REQUEST, monotonic()

    def opened(self, policy: SandboxPolicy, still_allowed: StillAllowed) -> None:
        """From now on the decision is made again when the policy has changed."""
        self.is_open, self._epoch, self._still_allowed = True, policy.epoch, still_allowed

    def closed(self) -> None:
        """Nothing of the last decision is going on any more."""
        self.is_open = self.answering = False

    def look(self, now: float) -> None:
        """Cut what does not move."""
        if self.answering and self.channels[0].is_left:
            return self.end("client_left")
        moved = [channel for channel in self.channels if channel.touched]
        for channel in moved:
            channel.touched = False
        seconds, reason, renewed = self._expected
        if moved and renewed:
            self._since = now
        elif now - self._since > seconds:
            self.end(reason)
        return None

    def judge(self, policy: SandboxPolicy | None) -> None:
        """Cut what is not allowed any more; ``policy`` None: nothing is."""
        if policy is not None and policy.epoch == self._epoch:
            return
        if policy is None or not self._still_allowed(policy):
            self.end("revoked")
        else:
            self._epoch = policy.epoch

    async def confirm(self, policies: PolicySource) -> None:
        """Ask once more, after the decision was recorded: it may have been taken back. A cut is felt here."""
        try:
            self.judge(await policies.policy(self.sandbox_id))
        # Whatever fails in a source: nobody knows whether this is still allowed, so it does not happen.
        except Exception as error:  # noqa: BLE001
            _log.error("egress_policy_unavailable", sandbox_id=self.sandbox_id, error=type(error).__name__)
            self.end("undecided")
        if self.cut is not None:
            await asyncio.sleep(0)

    def end(self, reason: CutReason) -> None:
        """Cut the connection; the first reason stays."""
        if self.cut is None:
            self.cut = reason
            self._task.cancel()


class Watch:
    """Looks at every connection at each tick."""

    def __init__(self, policies: PolicySource):
        self._policies = policies
        self._watched: set[Watched] = set()

    def add(self, watched: Watched) -> None:
        """Begin to look at a connection."""
        self._watched.add(watched)

    def remove(self, watched: Watched) -> None:
        """Stop looking at a connection."""
        self._watched.discard(watched)

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            began = monotonic()
            for watched in tuple(self._watched):
                watched.look(began)
            await self._judge_open()
            await asyncio.sleep(max(0.0, began + TICK_SECONDS - monotonic()))

    async def _judge_open(self) -> None:
        open_by_sandbox: dict[str, list[Watched]] = defaultdict(list)
        for watched in self._watched:
            if watched.is_open:
                open_by_sandbox[watched.sandbox_id].append(watched)
        await asyncio.gather(*(self._judge(*each) for each in open_by_sandbox.items()))

    async def _judge(self, sandbox_id: str, watched: Iterable[Watched]) -> None:
        try:
            async with asyncio.timeout(TICK_DECISION_SECONDS):
                policy = await self._policies.policy(sandbox_id)
        # Whatever fails in a source: nobody knows whether this is still allowed, so it is not.
        except Exception as error:  # noqa: BLE001
            _log.error("egress_policy_unavailable", sandbox_id=sandbox_id, error=type(error).__name__)
            policy = None
        for each in watched:
            if each.is_open:
                each.judge(policy)
