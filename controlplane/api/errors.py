"""The one place where an error becomes an HTTP answer."""

from collections.abc import Mapping, Sequence
from typing import Any

import psycopg
from fastapi.exceptions import RequestValidationError
from psycopg_pool import PoolTimeout
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from controlplane.errors import (
    BulkheadError,
    ConflictError,
    ErrorType,
    InvalidRequestError,
    NotFoundError,
    UnavailableError,
)
from controlplane.ids import shown_name
from controlplane.wire.common import ErrorBody, ErrorDetails, ErrorEnvelope

STATUS: Mapping[ErrorType, int] = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "permission_error": 403,
    "not_found_error": 404,
    "conflict_error": 409,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "overloaded_error": 503,
}

_OLD_PLAN = "RevalidateCachedQuery"
"""Where Postgres refuses a plan that was kept from before a migration; its message may be in any language.

https://github.com/postgres/postgres/blob/master/src/backend/utils/cache/plancache.c
"""
_PASSING_CONFLICT = "concurrent_change"

RETRY_AFTER_SECONDS = "1"
"""Postgres and Temporal are restarted within seconds; clients back off further by themselves."""


def error_response(error: Exception, request_id: str) -> Response:
    """Return the answer for any exception; what we did not foresee shows no details."""
    known = translate(error)
    status = error.status_code if isinstance(error, HTTPException) else STATUS[known.type]
    headers = {"request-id": request_id}
    if status in (429, 503):
        headers["retry-after"] = RETRY_AFTER_SECONDS
    if status == 409 and known.code != _PASSING_CONFLICT:
        headers["x-should-retry"] = "false"  # the public SDKs repeat a 409 unless they are told not to
    if isinstance(error, HTTPException) and error.headers:
        headers.update(error.headers)
    body = ErrorBody(
        type=known.type,
        message=known.message,
        code=known.code,
        field=known.field,
        next_step=known.next_step,
        details=ErrorDetails(error_code=known.code),
    )
    envelope = ErrorEnvelope(error=body, request_id=request_id)
    return Response(envelope.model_dump_json(), status, headers, "application/json")


def translate(error: Exception) -> BulkheadError:
    """Return the error that a caller may see."""
    match error:
        case BulkheadError():
            return error
        case RequestValidationError():
            return invalid(error.errors(), None)
        case HTTPException():
            return _http_error(error)
        case psycopg.Error():
            return _database_error(error)
        case _:
            return _unforeseen()


def invalid(errors: Sequence[Any], data: object) -> InvalidRequestError:
    """Return the error for the first of pydantic's ``errors`` about ``data``."""
    first = errors[0]
    field = field_path(first["loc"], data, kind=first["type"])
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "union_tag_invalid":  # pydantic's own words repeat the value
        message = f"the type is one of {first['ctx']['expected_tags']}"
    if first["type"] == "model_type":  # … and name a class
        message = "an object is expected here"
    return InvalidRequestError(
        f"{field}: {message}" if field else message,
        code="invalid_request",
        field=field or None,
        next_step="correct the field and send the request again",
    )


def invalid_model(error: ValidationError, data: object) -> InvalidRequestError:
    """Return the error for a body that does not fit its model."""
    return invalid(error.errors(include_url=False, include_input=False), data)


def field_path(location: Sequence[int | str], data: object, *, kind: str) -> str:
    """Return a dotted path without the tags that pydantic puts in for the members of unions."""
    if data is None:
        return ".".join(str(part) for part in location[1:])
    path: list[str] = []
    here: Any = data
    for index, part in enumerate(location):
        last = index == len(location) - 1
        if isinstance(here, list) and isinstance(part, int):
            here = here[part] if part < len(here) else None
        elif isinstance(here, dict) and part in here and (last or part not in (here.get("type"), here.get("name"))):
            here = here[part]
        elif not (isinstance(here, dict) and last and kind == "missing"):
            continue
        path.append(shown_name(str(part)))
    return ".".join(path)


def _database_error(error: psycopg.Error) -> BulkheadError:
    if isinstance(error, psycopg.DataError):
        return InvalidRequestError(
            "a value cannot be stored",
            code="invalid_value",
            next_step="check numbers, times and characters of the request",
        )
    if isinstance(error, psycopg.IntegrityError):
        return ConflictError(
            "something that the request refers to changed at the same moment",
            code=_PASSING_CONFLICT,
            next_step="repeat the request",
        )
    if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        busy = isinstance(error, PoolTimeout)
        return UnavailableError(
            "too many requests at once, or the database does not answer" if busy else "the database does not answer",
            code="database_unavailable",
            next_step="repeat the request with the same Idempotency-Key",
        )
    if error.diag.source_function == _OLD_PLAN:
        return UnavailableError(
            "the database is being brought up to date",
            code="database_unavailable",
            next_step="repeat the request with the same Idempotency-Key",
        )
    return _unforeseen()


def _unforeseen() -> BulkheadError:
    return BulkheadError(
        "an error that was not foreseen; the log has it under this request's id", code="internal_error"
    )


def _http_error(error: HTTPException) -> BulkheadError:
    if error.status_code == 404:
        return NotFoundError(
            "no such endpoint", code="endpoint_not_found", next_step="see /docs for the endpoints of this version"
        )
    if error.status_code == 405:
        return InvalidRequestError(
            "the endpoint has no such method", code="method_not_allowed", next_step="see /docs"
        )
    if error.status_code < 500:
        return InvalidRequestError(str(error.detail), code="invalid_request")
    return BulkheadError(str(error.detail), code="internal_error")
