"""Why a session stands where it stands, in five sentences; pure."""

from collections.abc import Iterator
from datetime import datetime, timedelta

from pydantic import BaseModel, ConfigDict

from controlplane.store.standing import OpenCall, RunningTurn, Standing

_SHOWN_CALLS = 3

_STOPS = {
    "end_turn": "the last turn came to its end",
    "requires_action": "the agent asked for something that somebody else has to decide or to do",
    "budget_reached": "its budget is used up",
    "refusal": "the model refused to answer",
    "retries_exhausted": "the last turn failed",
}


class Explanation(BaseModel):
    """One sentence for each question that somebody asks of a session that does not move."""

    model_config = ConfigDict(frozen=True)

    stands: str
    because: str
    does: str
    waits: str
    next_step: str


def explain(standing: Standing) -> Explanation:
    """Explain where a session stands."""
    return Explanation(
        stands=_stands(standing),
        because=_because(standing),
        does=_does(standing),
        waits=_waits(standing),
        next_step=next(_next_steps(standing)),
    )


def _stands(standing: Standing) -> str:
    since = _ago(standing, standing.turn.started_at if standing.turn else standing.updated_at)
    if standing.archived_at is not None:
        return f"archived {_ago(standing, standing.archived_at)}, and read-only"
    match standing.status:
        case "running":
            return f"running: a turn began {since}"
        case "rescheduling":
            return f"rescheduling: a turn began {since}, and its model is asked again"
        case "terminated":
            return "terminated: it takes no more messages"
        case "idle":
            return f"idle, last changed {since}"


def _because(standing: Standing) -> str:
    if standing.frozen_at is not None:
        return f"its agent was frozen {_ago(standing, standing.frozen_at)}"
    if standing.failure is not None:
        failure = standing.failure
        return f"{failure.cause} ({failure.status}): {failure.message}"
    if standing.turn is not None:
        attempt = standing.turn.attempt
        return "a message is being answered" + (f"; this is attempt {attempt} at it" if attempt > 1 else "")
    if said := (standing.stop_reason or {}).get("message"):
        return said
    return _STOPS.get((standing.stop_reason or {}).get("type", ""), "no turn has run yet")


def _does(standing: Standing) -> str:
    turn = standing.turn
    if turn is None:
        return "nothing runs for it"
    if not turn.some_brain_lives:
        return f"its worker{_place(turn)} is dead, and no other brain lives"
    if not turn.worker_lives:
        return f"its worker{_place(turn)} is dead; another takes the turn over within seconds"
    running = [call for call in standing.calls if call.state == "dispatched"]
    if running:
        return f"{_count(len(running), 'tool call')}{_place(turn)}: " + ", ".join(_shown(standing, running))
    if turn.model_asked_at is not None:
        return f"the model was asked {_ago(standing, turn.model_asked_at)}{_place(turn)}"
    return f"its worker{_place(turn)} is between two steps"


def _waits(standing: Standing) -> str:
    parts = [*_for_somebody(standing), *_for_its_turn(standing)]
    return "; ".join(parts) if parts else "nothing waits"


def _for_somebody(standing: Standing) -> Iterator[str]:
    undecided = [call for call in _parked(standing) if not call.decided]
    for verdict, what in (("ask", "a person's decision"), ("client", "the client's result")):
        found = [call for call in undecided if call.verdict == verdict]
        if found:
            first = found[0]
            since = _ago(standing, first.intended_at)
            yield f"{_count(len(found), 'tool call')} for {what}, the first asked {since}: {first.name} {first.id}"


def _for_its_turn(standing: Standing) -> Iterator[str]:
    if standing.waiting and standing.oldest_waiting_at is not None:
        oldest = _ago(standing, standing.oldest_waiting_at)
        behind = ", behind the turn that did not get to its end" if standing.is_held else ""
        yield f"{_count(standing.waiting, 'input')} in the queue, the oldest sent {oldest}{behind}"
    if standing.resume_wanted:
        later = standing.resume_at is not None and standing.resume_at > standing.now
        yield f"it is resumed at {standing.resume_at:%Y-%m-%d %H:%M:%S} UTC" if later else "it is about to be resumed"


def _next_steps(standing: Standing) -> Iterator[str]:
    """Yield what could be done, what helps most first."""
    session = standing.session_id
    if standing.archived_at is not None or standing.status == "terminated":
        yield "create a new session"
    if standing.frozen_at is not None:
        yield "thaw its agent with `bulkhead agents thaw`; the session goes on by itself"
    for call in _parked(standing):
        if not call.decided and call.verdict == "ask":
            yield f"decide: `bulkhead approvals allow {call.id}` or `deny`"
        elif not call.decided:
            yield f"send a user.custom_tool_result for {call.id}"
    stop = standing.stop_reason or {}
    if stop.get("unpriced"):
        yield f"set its price: `bulkhead prices set {stop['unpriced']} --input USD --output USD`"
    if stop.get("type") == "budget_reached" and standing.turn is None:
        yield "raise the budget or wait for its next period; the session goes on by itself"
    if standing.turn is not None and not standing.turn.some_brain_lives:
        yield "start a brain (`bulkhead brain`; on Kubernetes the deployment `…-brain`): the turn goes on by itself"
    elif standing.turn is not None or standing.resume_wanted:
        yield f"wait, or stop it: `bulkhead sessions interrupt {session}`; `events --follow` shows it work"
    if standing.failure is not None:
        yield f"{standing.failure.next_step} (`bulkhead sessions resume {session}`)"
    if standing.waiting and not standing.is_held:
        yield "wait: the queue is looked at every few seconds; if nothing happens, look at /readyz"
    yield f"send a message: `bulkhead sessions send {session} TEXT`"


def _parked(standing: Standing) -> list[OpenCall]:
    return [call for call in standing.calls if call.state == "intended" and call.verdict in {"ask", "client"}]


def _shown(standing: Standing, calls: list[OpenCall]) -> Iterator[str]:
    for call in calls[:_SHOWN_CALLS]:
        begun = call.started_at or call.dispatched_at or call.intended_at
        yield f"{call.name} {call.id} since {_span(standing.now - begun)}"
    if len(calls) > _SHOWN_CALLS:
        yield f"and {len(calls) - _SHOWN_CALLS} more"


def _place(turn: RunningTurn) -> str:
    return f" (process {turn.pid} on {turn.host})" if turn.host else ""


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _ago(standing: Standing, moment: datetime) -> str:
    return f"{_span(standing.now - moment)} ago"


def _span(length: timedelta) -> str:
    seconds = max(0, round(length.total_seconds()))
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
