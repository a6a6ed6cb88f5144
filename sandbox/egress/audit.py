"""One decision from its first moment to its last, as the audit is told of it."""

import os
import time
from typing import TypedDict

import structlog

from sandbox.egress.contract import AuditEntry, AuditSink, SandboxPolicy, Verdict
from sandbox.egress.limits import MAX_AUDIT_PATH
from sandbox.egress.rules import RefusedError
from sandbox.egress.stubs import masked

_log = structlog.get_logger(__name__)


class _About(TypedDict):
    exchange_id: str
    sandbox_id: str
    session_id: str
    workspace_id: str
    method: str
    host: str
    port: int
    path: str | None


class UnrecordedError(Exception):
    """The audit could not be told, so nothing may happen."""


class Record:
    """What the audit will be told of one exchange or tunnel; whoever carries it counts its bytes."""

    def __init__(
        self, sink: AuditSink, policy: SandboxPolicy, *, method: str, host: str, port: int, target: str | None
    ):
        self._sink = sink
        self._about = _About(
            exchange_id=os.urandom(16).hex(),
            sandbox_id=policy.sandbox_id,
            session_id=policy.session_id,
            workspace_id=policy.workspace_id,
            method=masked(method)[:32],
            host=masked(host),
            port=port,
            path=None if target is None else masked(target.partition("?")[0])[:MAX_AUDIT_PATH],
        )
        self._began = time.perf_counter()
        self.credential: str | None = None
        self.status: int | None = None
        self.bytes_up = 0
        self.bytes_down = 0
        self.is_ended = False

    async def allow(self) -> None:
        """Record that the effect may happen now; raises `UnrecordedError`."""
        await self._tell(self._entry("allowed", "allowed", "Passed on.", ended=False))

    async def refuse(self, refused: RefusedError) -> None:
        """Record that something was refused, or failed, for good."""
        self.credential = self.credential or refused.credential
        await self.end(refused.verdict, refused.reason, refused.message)

    async def end(self, verdict: Verdict = "allowed", reason: str = "allowed", message: str = "Passed on.") -> None:
        """Record what became of it, once; raises `UnrecordedError`."""
        if not self.is_ended:
            self.is_ended = True
            await self._tell(self._entry(verdict, reason, message, ended=True))

    def _entry(self, verdict: Verdict, reason: str, message: str, *, ended: bool) -> AuditEntry:
        return AuditEntry(
            **self._about,
            ended=ended,
            credential=self.credential,
            verdict=verdict,
            reason=reason,
            message=masked(message),
            status=self.status,
            bytes_up=self.bytes_up,
            bytes_down=self.bytes_down,
            duration_ms=(time.perf_counter() - self._began) * 1000,
        )

    async def _tell(self, entry: AuditEntry) -> None:
        try:
            await self._sink.record(entry)
        # Whatever it is that fails in a sink, the answer is the same: what is not recorded does not happen.
        except Exception as error:
            _log.error("egress_audit_failed", sandbox_id=entry.sandbox_id, error=type(error).__name__)
            raise UnrecordedError from error
