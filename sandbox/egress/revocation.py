"""Everything that is open, looked at again several times a second: is it still allowed, and does it still move?"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable
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
        self._time = asyncio.get_running_loop().time
        self._epoch = 0
        self._still_allowed: StillAllowed = lambda _: True
        self._expected: tuple[float, CutReason] = (HEAD_SECONDS, "slow_sender")
        self._since = self._time()
        self._renewed = True

    def reading_head(self) -> None:
        """A head or a handshake has begun: it has a time of its own, however it trickles."""
        self._expect(HEAD_SECONDS, "slow_sender", renewed=False)

    def deciding(self) -> None:
        """The store or the audit is asked."""
        self._expect(DECISION_SECONDS, "undecided", renewed=False)

    def uploading(self) -> None:
        """A request's body is on its way."""
        self._expect(BODY_STALL_SECONDS, "slow_sender")

    def carrying(self) -> None:
        """Bytes may move in either direction."""
        self._expect(IDLE_SECONDS, "idle")

    def keeping_alive(self) -> None:
        """Nothing is asked at the moment."""
        self._expect(KEEP_ALIVE_SECONDS, "idle")

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
        if moved and self._renewed:
            self._since = now
        elif now - self._since > self._expected[0]:
            self.end(self._expected[1])
        return None

    def _expect(self, seconds: float, reason: CutReason, *, renewed: bool = True) -> None:
        self._expected = (seconds, reason)
        self._since, self._renewed = self._time(), renewed

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
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            for watched in tuple(self._watched):
                watched.look(began)
            await self._judge_open()
            await asyncio.sleep(max(0.0, began + TICK_SECONDS - loop.time()))

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
