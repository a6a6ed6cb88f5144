from datetime import UTC, datetime
from typing import Any, get_args

import pytest

from harness_adapters.contract import ModelRequestFailed, TurnFinished
from workflows.failures import Attempt, Cause, failure, of_attempts, of_request, of_turn
from workflows.limits import MAX_TURN_ATTEMPTS, MAX_TURN_CRASHES

CAUSES = [name for part in get_args(Cause) for name in get_args(part)]


def attempts(*endings: str, progress_seq: int = 5) -> list[Attempt]:
    at: dict[str, Any] = {"started_at": datetime.now(UTC), "ended_at": None, "host": "a", "pid": 1, "error": None}
    return [
        Attempt(attempt=n, worker_id="wrk_1", progress_seq=progress_seq, ending=ending, **at)  # pyright: ignore[reportArgumentType] - checked at run time
        for n, ending in enumerate(endings, 1)
    ]


@pytest.mark.parametrize("cause", CAUSES)
def test_every_cause_says_what_to_do(cause: Cause) -> None:
    found = failure(cause, "why")
    assert found.status in {"exhausted", "terminal"}
    assert found.next_step


def test_what_is_tried_again_by_itself_asks_nothing_of_anybody() -> None:
    failed = ModelRequestFailed(request_id="r", kind="billing", message="m", retry_in_seconds=1)
    assert of_request(failed).status == "retrying"
    assert of_request(failed.model_copy(update={"retry_in_seconds": None})).status == "terminal"


def test_only_failed_turns_have_a_failure() -> None:
    assert of_turn(TurnFinished(reason="end_turn", message="cut")) is None
    assert of_turn(TurnFinished(reason="parked")) is None
    found = of_turn(TurnFinished(reason="limit", message="all used"))
    assert found is not None
    assert found.cause == "model_request_limit"


def test_crashes_at_one_step_are_enough() -> None:
    crashed = attempts(*["crashed"] * MAX_TURN_CRASHES)
    assert of_attempts(crashed[:-1], progress_seq=5) is None
    found = of_attempts(crashed, progress_seq=5)
    assert found is not None
    assert (found.cause, found.evidence) == ("worker_crashed", crashed)
    assert of_attempts(crashed, progress_seq=6) is None


def test_an_attempt_that_brought_the_turn_on_and_died_then_counts_for_the_step_that_it_died_at() -> None:
    got_on, stuck = attempts("crashed", progress_seq=2), attempts(*["crashed"] * (MAX_TURN_CRASHES - 1))
    assert of_attempts([*got_on, *stuck], progress_seq=5) is not None
    assert of_attempts([*got_on, *stuck[1:]], progress_seq=5) is None


def test_stopped_attempts_count_for_nothing_and_failed_ones_less_than_crashes() -> None:
    assert of_attempts(attempts(*["stopped"] * 50), progress_seq=5) is None
    assert of_attempts(attempts(*["failed"] * (MAX_TURN_ATTEMPTS - 1)), progress_seq=5) is None
    found = of_attempts(attempts(*["failed"] * MAX_TURN_ATTEMPTS), progress_seq=5)
    assert found is not None
    assert found.cause == "attempts_failed"
