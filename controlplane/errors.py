"""Errors that a caller may act on: a stable code, the field, and what to do next."""

from typing import Literal

ErrorType = Literal[
    "invalid_request_error",
    "authentication_error",
    "permission_error",
    "not_found_error",
    "conflict_error",
    "request_too_large",
    "rate_limit_error",
    "api_error",
    "overloaded_error",
]


class BulkheadError(Exception):
    """Something the control plane refuses or cannot do; carries what the caller needs to go on.

    ``type`` is the wire format's error type and decides the HTTP status (`controlplane/api/errors.py`);
    ``code`` is stable and machine-readable; ``field`` names the offending field as a dotted path.
    """

    type: ErrorType = "api_error"

    def __init__(self, message: str, *, code: str, field: str | None = None, next_step: str | None = None):
        super().__init__(message)
        self.message = message
        self.code = code
        self.field = field
        self.next_step = next_step


class InvalidRequestError(BulkheadError):
    """The request is malformed or asks for something that cannot be."""

    type = "invalid_request_error"


class AuthenticationError(BulkheadError):
    """No API key, or one that does not hold."""

    type = "authentication_error"


class NotFoundError(BulkheadError):
    """The named object does not exist in this workspace."""

    type = "not_found_error"


class ConflictError(BulkheadError):
    """The object's present state does not allow the request."""

    type = "conflict_error"


class RequestTooLargeError(BulkheadError):
    """The body exceeds the limit that the message names."""

    type = "request_too_large"


class UnavailableError(BulkheadError):
    """A part that the request needs does not answer; try again."""

    type = "overloaded_error"


class PermissionDeniedError(BulkheadError):
    """The API key holds, but not for this."""

    type = "permission_error"


class RateLimitedError(BulkheadError):
    """More of this runs or waits than is let in at once; try again later."""

    type = "rate_limit_error"
