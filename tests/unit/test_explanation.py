from datetime import UTC, datetime, timedelta
from typing import Any

from controlplane.explanation import Explanation, explain
from controlplane.store.standing import OpenCall, RunningTurn, Standing
from workflows.failures import failure

NOW = datetime(2026, 1, 2, 12, tzinfo=UTC)
TURN = RunningTurn(
    id="turn_1",
    attempt=1,
    started_at=NOW - timedelta(seconds=90),
    attempt_started_at=NOW,
    host="a",
    pid=7,
    worker_lives=True,
    some_brain_lives=True,
    model_asked_at=NOW - timedelta(seconds=4),
)


def explained(**facts: Any) -> Explanation:
    idle: dict[str, Any] = {
        "session_id": "sesn_1", "now": NOW, "status": "idle", "stop_reason": None, "failure": None,
        "archived_at": None, "frozen_at": None, "updated_at": NOW - timedelta(hours=3), "resume_wanted": False,
 "is_held": False,
        "resume_at": None, "waiting": 0, "oldest_waiting_at": None, "turn": None, "calls": [],
    }  # fmt: skip
    return explain(Standing(**{**idle, **facts}))


def call(**facts: Any) -> OpenCall:
    asked: dict[str, Any] = {
        "id": "sevt_1", "name": "bash", "state": "intended", "verdict": "ask", "decided": False,
        "intended_at": NOW - timedelta(days=3), "dispatched_at": None, "started_at": None, "sandbox_id": None,
    }  # fmt: skip
    return OpenCall(**{**asked, **facts})


def test_a_session_that_rests_says_so() -> None:
    found = explained(stop_reason={"type": "end_turn"})
    assert found.stands == "idle, last changed 3 h ago"
    assert (found.does, found.waits) == ("nothing runs for it", "nothing waits")
    assert found.next_step.startswith("send a message")


def test_a_call_that_waits_for_days_names_who_is_to_decide() -> None:
    found = explained(stop_reason={"type": "requires_action"}, calls=[call(), call(id="sevt_2", verdict="client")])
    assert found.waits == (
        "1 tool call for a person's decision, the first asked 3 d ago: bash sevt_1; "
        "1 tool call for the client's result, the first asked 3 d ago: bash sevt_2"
    )
    assert "bulkhead approvals allow sevt_1" in found.next_step


def test_a_running_turn_says_where_and_at_what() -> None:
    assert explained(status="running", turn=TURN).does == "the model was asked 4 s ago (process 7 on a)"
    running = [call(state="dispatched", verdict="allow", dispatched_at=NOW - timedelta(seconds=30))] * 5
    found = explained(status="running", turn=TURN, calls=running)
    assert found.does.startswith("5 tool calls (process 7 on a): bash sevt_1 since 30 s")
    assert found.does.endswith("and 2 more")


def test_a_dead_worker_is_called_dead() -> None:
    found = explained(status="running", turn=TURN.model_copy(update={"worker_lives": False, "attempt": 2}))
    assert found.does.startswith("its worker (process 7 on a) is dead")
    assert "attempt 2" in found.because
    gone = {"worker_lives": False, "some_brain_lives": False}
    found = explained(status="running", turn=TURN.model_copy(update=gone))
    assert found.does.endswith("is dead, and no other brain lives")
    assert found.next_step.startswith("start a brain")


def test_a_failure_says_what_to_do_and_a_planned_resumption_says_when() -> None:
    failed = failure("billing", "HTTP 402: pay")
    found = explained(failure=failed)
    assert found.because == "billing (terminal): HTTP 402: pay"
    assert found.next_step.startswith(failed.next_step)
    found = explained(failure=failed, resume_wanted=True, resume_at=NOW + timedelta(minutes=1))
    assert found.waits == "it is resumed at 2026-01-02 12:01:00 UTC"
