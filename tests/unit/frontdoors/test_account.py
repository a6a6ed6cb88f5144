"""What a session's events come to in its thread."""

from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest

from controlplane.frontdoors.account import Account, Doing, Rest, Stand
from controlplane.frontdoors.contract import Text

CUT = "the answer was cut at its limit of 100 tokens"
REFUSED = "the model refused to answer"
SILENCE = "_(nothing more was said)_"

_numbers = count()


@pytest.fixture
def account() -> Account:
    """The account of a session from its beginning."""
    return Account("sesn_1", "scripted/test", "http://console.test/sesn_1")


def told(account: Account, *events: dict[str, Any]) -> Iterator[tuple[str, str | None]]:
    """Yield the texts, each with its footer, that events come to, and their rest."""
    for event in events:
        for note in account.read({"id": f"sevt_{next(_numbers)}", **event}):
            if isinstance(note, Stand) and isinstance(note.body, Text):
                yield note.body.markdown, note.body.footer
            elif isinstance(note, Rest):
                yield "rests", None


RUNNING = {"type": "session.status_running", "processed_at": "2026-01-01T10:00:00Z"}
CALL = {"type": "agent.tool_use", "name": "bash", "input": {"command": "ls"}}
FOOTER = "scripted/test · $0.0125 · 1 min 5 s · http://console.test/sesn_1"


def said(text: str) -> dict[str, Any]:
    return {"type": "agent.message", "content": [{"type": "text", "text": text}]}


def booked(cost: str = "0.0125") -> dict[str, Any]:
    return {"type": "span.model_request_end", "model": "scripted/test", "cost_usd": cost}


def error(message: str, status: str = "exhausted") -> dict[str, Any]:
    return {"type": "session.error", "error": {"message": message, "retry_status": {"type": status}}}


def idle(reason: str = "end_turn", **more: Any) -> dict[str, Any]:
    stop_reason = {"type": reason, **more}
    return {"type": "session.status_idle", "stop_reason": stop_reason, "processed_at": "2026-01-01T10:01:05Z"}


def test_an_answer_ends_with_model_cost_duration_and_link(account: Account) -> None:
    events = (RUNNING, said("first"), booked("0.01"), CALL, said("last"), booked("0.0025"), idle())
    assert list(told(account, *events)) == [("first", None), ("last", FOOTER), ("rests", None)]


@pytest.mark.parametrize(("message", "reason"), [(CUT, "end_turn"), (REFUSED, "refusal")])
def test_an_answer_that_is_not_whole_says_so(account: Account, message: str, reason: str) -> None:
    cut = (RUNNING, said("half an"), booked(), error(message), idle(reason))
    assert list(told(account, *cut)) == [("half an", FOOTER), (f":warning: {message}", None), ("rests", None)]
    nothing = (RUNNING, booked(), error(message), idle(reason))
    assert list(told(account, *nothing)) == [(f":warning: {message}", FOOTER), ("rests", None)]


@pytest.mark.parametrize("before", [(), (said(" \n"),), (said("I look"), CALL)], ids=["no", "blank", "earlier"])
def test_a_turn_that_ends_without_words_says_so(account: Account, before: tuple[dict[str, Any], ...]) -> None:
    *_, last, rest = told(account, RUNNING, *before, booked(), idle())
    assert (last, rest) == ((SILENCE, FOOTER), ("rests", None))


def test_what_was_tried_again_and_came_to_an_end_is_no_trouble(account: Account) -> None:
    events = (RUNNING, error("overloaded", "retrying"), said("whole"), booked(), idle())
    assert list(told(account, *events)) == [("whole", FOOTER), ("rests", None)]


def test_who_stops_a_turn_is_not_told_that_it_is_silent(account: Account) -> None:
    stop = {"type": "user.interrupt"}
    stopped = {**idle(), "interrupted": True}
    assert list(told(account, RUNNING, CALL, stop, stopped)) == [("rests", None)]
    assert list(told(account, RUNNING, stopped)) == [("rests", None)], "it was stopped before this account began"
    assert list(told(account, RUNNING, idle()))[-2][0] == SILENCE, "and the next was not"
    assert list(told(account, stop, RUNNING, idle()))[-2][0] == SILENCE, (
        "a stop where nothing ran means no later turn"
    )


def test_a_rest_that_no_turn_came_to_says_nothing(account: Account) -> None:
    assert list(told(account, {"type": "user.interrupt"}, idle())) == [("rests", None)]
    assert list(told(account, idle())) == [("rests", None)]


def test_a_call_that_waits_is_all_that_is_said(account: Account) -> None:
    notes = [
        note
        for event in (RUNNING, {**CALL, "id": "t"}, idle("requires_action", event_ids=["t"]))
        for note in account.read({"id": "sevt_x", **event})
    ]
    assert [note.name for note in notes if isinstance(note, Stand)] == ["card:t"]


def test_a_report_that_has_nothing_to_say_has_its_heading() -> None:
    account = Account("sesn_1", "scripted/test", "link", heading="nightly")
    ((markdown, footer), _) = told(account, RUNNING, said("on the way"), CALL, idle())
    assert markdown == f"**nightly**\n\n{SILENCE}"
    assert footer == "scripted/test · $0 · 1 min 5 s · link"


def test_a_status_has_the_whole_line_of_a_command_until_secrets_are_out_of_it(account: Account) -> None:
    command = "curl -H 'x: " + "k" * 100 + "'"
    event = {**CALL, "id": "t", "input": {"command": f"{command}\nls"}}
    assert account.read(event) == [Doing(f"running `{command}`")]
