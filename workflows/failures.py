"""Why a turn failed, whether another try can help, and what to do about it; pure."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from harness_adapters.contract import FailureKind, ModelRequestFailed, TurnFinished
from workflows.limits import MAX_TURN_ATTEMPTS, MAX_TURN_CRASHES

FailureStatus = Literal["retrying", "exhausted", "terminal"]
"""``retrying``: tried again without anybody's help. ``exhausted``: another try may help. ``terminal``: it cannot,
unless something is changed first."""

Cause = FailureKind | Literal["model_request_limit", "harness_failed", "worker_crashed", "attempts_failed"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class Attempt(_Frozen):
    """One attempt at a turn. ``progress_seq``: the agent's newest event in the turn when it began.

    ``ending``: its worker vanished (`crashed`), raised ``error`` (`failed`) or was stopped (`stopped`); None while it
    runs.
    """

    attempt: int
    worker_id: str
    host: str | None
    pid: int | None
    progress_seq: int
    started_at: datetime
    ended_at: datetime | None
    ending: Literal["crashed", "failed", "stopped"] | None
    error: str | None


class Failure(_Frozen):
    """What is known of a failure. ``evidence``: the attempts that it follows from, where it was not one alone."""

    status: FailureStatus
    cause: Cause
    message: str
    next_step: str
    evidence: list[Attempt] = Field(default_factory=list[Attempt])


_NEXT_STEPS: Mapping[Cause, tuple[FailureStatus, str]] = {
    "overloaded": ("exhausted", "resume the session when the provider has recovered, or with another model"),
    "rate_limited": ("exhausted", "resume the session later or with another model, or raise the provider's limits"),
    "interrupted_stream": ("exhausted", "resume the session; if it happens again, look at the gateway's log"),
    "unreachable": ("exhausted", "see that the provider's base_url can be reached, then resume the session"),
    "unknown": ("exhausted", "resume the session; if it happens again, look at the gateway's log"),
    "budget_reached": ("exhausted", "raise the budget or remove it; the session goes on by itself"),
    "unpriced": ("terminal", "set the model's price with `bulkhead prices set`; the session goes on by itself"),
    "agent_frozen": ("exhausted", "thaw the agent; the session goes on by itself"),
    "billing": ("terminal", "settle the provider's account, or resume the session with another provider's model"),
    "authentication": ("terminal", "correct the provider's API key and start the gateway again, then resume"),
    "context_window": ("terminal", "resume the session with a model that has a larger context window"),
    "invalid_request": ("terminal", "resume the session with another model, or correct what the message names"),
    "model_request_limit": ("exhausted", "resume the session to give the turn as many model requests again"),
    "harness_failed": ("exhausted", "look at the brain's log of that moment, then resume the session"),
    "worker_crashed": ("exhausted", "look at the workers' logs of the times in evidence, then resume the session"),
    "attempts_failed": ("exhausted", "look at the errors in evidence and the brain's log, then resume the session"),
}


PERHAPS_ANSWERED: frozenset[FailureKind] = frozenset({"interrupted_stream", "unknown"})
"""A provider may have worked, and charge, for a request that failed so."""


def failure(cause: Cause, message: str, *, evidence: Sequence[Attempt] = (), retrying: bool = False) -> Failure:
    """Classify a failure by its cause."""
    status, next_step = _NEXT_STEPS[cause]
    if retrying:
        status, next_step = "retrying", "nothing; it is tried again by itself"
    return Failure(status=status, cause=cause, message=message, next_step=next_step, evidence=list(evidence))


def of_request(failed: ModelRequestFailed) -> Failure:
    """Classify a model request that failed."""
    return failure(failed.kind, failed.message, retrying=failed.retry_in_seconds is not None)


def of_turn(finished: TurnFinished) -> Failure | None:
    """Classify the end of a turn as its harness tells it; None where it did not fail."""
    if finished.reason not in {"failed", "limit"}:
        return None
    cause: Cause = "model_request_limit" if finished.reason == "limit" else "harness_failed"
    return failure(cause, finished.message or "the harness gave no reason")


def of_attempts(attempts: Sequence[Attempt], *, progress_seq: int) -> Failure | None:
    """Say whether a turn is given up before its next attempt, which stands at ``progress_seq``.

    ``attempts``: those before it, in order. Each counts for the step at which it ended, which is where the next one
    began: one that brought the turn on clears what was before it. One that was stopped counts for nothing.
    """
    ended_at = [*(each.progress_seq for each in attempts[1:]), progress_seq]
    futile = [
        each
        for each, seq in zip(attempts, ended_at, strict=False)
        if seq == progress_seq and each.ending in {"crashed", "failed"}
    ]
    crashed = [each for each in futile if each.ending == "crashed"]
    if len(crashed) >= MAX_TURN_CRASHES:
        message = f"{len(crashed)} workers died at the same step of this turn"
        return failure("worker_crashed", message, evidence=crashed)
    if len(futile) >= MAX_TURN_ATTEMPTS:
        message = f"{len(futile)} attempts at the same step of this turn failed"
        return failure("attempts_failed", message, evidence=futile)
    return None
