"""What went wrong with a model request, and whether asking again can help."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from harness_adapters.contract import FailureKind

MAX_MESSAGE_CHARS = 1000
"""Of a provider's error text that goes into an event; some send whole pages."""

RETRIED: frozenset[FailureKind] = frozenset(
    ["overloaded", "rate_limited", "interrupted_stream", "unreachable", "unknown"]
)

_BY_STATUS: dict[int, FailureKind] = {
    401: "authentication",
    402: "billing",
    403: "authentication",
    408: "unknown",
    409: "unknown",
    429: "rate_limited",
    502: "unreachable",
    503: "overloaded",
    529: "overloaded",
}
_BY_NAME: dict[str, FailureKind] = {
    "budget_reached": "budget_reached",
    "unpriced": "unpriced",
    "agent_frozen": "agent_frozen",
    "model_not_allowed": "invalid_request",
    "authentication_error": "authentication",
    "permission_error": "authentication",
    "billing_error": "billing",
    "insufficient_quota": "billing",
    "billing_hard_limit_reached": "billing",
    "billing_not_active": "billing",
    "context_length_exceeded": "context_window",
    "invalid_request_error": "invalid_request",
    "not_found_error": "invalid_request",
    "request_too_large": "invalid_request",
    "rate_limit_error": "rate_limited",
    "rate_limit_exceeded": "rate_limited",
    "tokens": "rate_limited",
    "requests": "rate_limited",
    "overloaded_error": "overloaded",
    "server_error": "unknown",
    "api_error": "unknown",
    "timeout_error": "unknown",
}
_BY_NAME_ALONE = frozenset({"budget_reached", "unpriced", "agent_frozen", "billing", "context_window"})
_PHRASES: tuple[tuple[str, FailureKind], ...] = (
    ("prompt is too long", "context_window"),
    ("exceed context limit", "context_window"),
    ("exceeds the context window", "context_window"),
    ("maximum context length", "context_window"),
    ("context length exceeded", "context_window"),
    ("credit balance is too low", "billing"),
)


class ModelError(Exception):
    """A model request that brought no complete answer."""

    def __init__(self, kind: FailureKind, message: str, *, retry_after_seconds: float | None = None):
        super().__init__(message)
        self.kind: FailureKind = kind
        self.message = message[:MAX_MESSAGE_CHARS]
        self.retry_after_seconds = retry_after_seconds


def from_response(status: int, headers: Mapping[str, str], body: bytes) -> ModelError:
    """Return what an answer with an error status means, in either wire format."""
    error = _error_object(body)
    message = str(error.get("message") or body[:MAX_MESSAGE_CHARS].decode(errors="replace") or "no message")
    return ModelError(
        _kind(error, message, status=status),
        f"HTTP {status}: {message}",
        retry_after_seconds=retry_after_seconds(headers.get("retry-after")),
    )


def from_stream(error: Mapping[str, Any]) -> ModelError:
    """Return what an error object in the middle of a stream means."""
    message = str(error.get("message") or "the provider reported an error in the middle of its answer")
    return ModelError(_kind(error, message, status=None), message)


def retry_after_seconds(value: str | None) -> float | None:
    """Return the seconds that a Retry-After header asks for: a number, or a date; None if it asks for nothing."""
    if value is None:
        return None
    try:
        return max(0.0, float(value)) if float(value) < float("inf") else None
    except ValueError:
        pass
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (aware - datetime.now(UTC)).total_seconds())


def _kind(error: Mapping[str, Any], message: str, *, status: int | None) -> FailureKind:
    phrase: FailureKind | None = next((kind for words, kind in _PHRASES if words in message.lower()), None)
    names = [str(error.get("code") or ""), str(error.get("type") or "")]
    named: FailureKind | None = next((_BY_NAME[name] for name in names if name in _BY_NAME), None)
    if phrase and named in {None, "invalid_request"}:
        return phrase
    if named in _BY_NAME_ALONE or "model_not_allowed" in names or status is None:
        return named or "unknown"
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    return "invalid_request" if status < 500 else "unknown"


def _error_object(body: bytes) -> dict[str, Any]:
    try:
        parsed: Any = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    error = parsed.get("error") if isinstance(parsed, dict) else None
    return error if isinstance(error, dict) else {}
