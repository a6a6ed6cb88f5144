"""What errors mean, in both formats, and how long the harness waits."""

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from harness_adapters.model.errors import RETRIED, from_response, from_stream, retry_after_seconds
from harness_adapters.model.patience import LONGEST_RETRY_AFTER_SECONDS, LONGEST_WAIT_SECONDS, Patience


def _anthropic(kind: str, message: str = "m") -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "message": message}}


def _openai(code: str | None, message: str = "m", kind: str = "invalid_request_error") -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


@pytest.mark.parametrize(
    ("status", "body", "kind", "retried"),
    [
        (429, _anthropic("rate_limit_error"), "rate_limited", True),
        (529, _anthropic("overloaded_error"), "overloaded", True),
        (500, _anthropic("api_error"), "unknown", True),
        (502, _anthropic("api_error"), "unreachable", True),
        (503, b"<html>busy</html>", "overloaded", True),
        (400, _anthropic("invalid_request_error"), "invalid_request", False),
        (
            400,
            _anthropic("invalid_request_error", "prompt is too long: 9 tokens > 8 maximum"),
            "context_window",
            False,
        ),
        (
            400,
            _anthropic("invalid_request_error", "input length and `max_tokens` exceed context limit: 9 + 1 > 8"),
            "context_window",
            False,
        ),
        (400, _anthropic("invalid_request_error", "Your credit balance is too low to use the API"), "billing", False),
        (402, _anthropic("billing_error"), "billing", False),
        (401, _anthropic("authentication_error"), "authentication", False),
        (403, _anthropic("permission_error"), "authentication", False),
        (404, _anthropic("not_found_error"), "invalid_request", False),
        (413, _anthropic("request_too_large"), "invalid_request", False),
        (400, _openai("context_length_exceeded"), "context_window", False),
        (400, _openai(None, "This model's maximum context length is 8192 tokens."), "context_window", False),
        (429, _openai("insufficient_quota", kind="insufficient_quota"), "billing", False),
        (429, _openai("rate_limit_exceeded", kind="tokens"), "rate_limited", True),
        (401, _openai("invalid_api_key"), "authentication", False),
        (400, b"\xff not json", "invalid_request", False),
        (400, [1], "invalid_request", False),
        (418, {"error": "text"}, "invalid_request", False),
    ],
)
def test_an_error_status_is_classified(status: int, body: Any, kind: str, retried: bool):
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    error = from_response(status, {}, raw)
    assert (error.kind, error.kind in RETRIED) == (kind, retried)
    assert str(status) in error.message


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ({"type": "overloaded_error", "message": "Overloaded"}, "overloaded"),
        ({"type": "rate_limit_error"}, "rate_limited"),
        ({"type": "server_error", "code": None, "message": "oops"}, "unknown"),
        ({"code": "context_length_exceeded"}, "context_window"),
        ({}, "unknown"),
    ],
)
def test_an_error_in_a_stream_is_classified(error: dict[str, Any], kind: str):
    assert from_stream(error).kind == kind


@pytest.mark.parametrize(
    ("header", "seconds"),
    [(None, None), ("7", 7), ("0.5", 0.5), ("-3", 0), ("soon", None), ("inf", None), ("nan", None)],
)
def test_retry_after_in_seconds(header: str | None, seconds: float | None):
    assert retry_after_seconds(header) == seconds


def test_retry_after_as_a_date():
    ahead = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    seconds = retry_after_seconds(ahead)
    assert seconds is not None and 90 < seconds <= 100
    assert retry_after_seconds("Wed, 21 Oct 2015 07:28:00 GMT") == 0


def test_the_provider_is_heeded_up_to_a_limit():
    assert Patience().wait_seconds(1, 7) == 7
    assert Patience().wait_seconds(1, 9999) == LONGEST_RETRY_AFTER_SECONDS


def test_waits_grow_with_jitter_up_to_a_limit():
    for attempt, longest in ((1, 1), (2, 2), (3, 4), (20, LONGEST_WAIT_SECONDS)):
        waits = {Patience().wait_seconds(attempt, None) for _ in range(50)}
        assert longest / 2 <= min(waits) < max(waits) <= longest
