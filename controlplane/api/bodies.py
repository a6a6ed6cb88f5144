"""Request bodies: never more in memory than the limit, and nothing that Postgres would refuse later."""

import json
import math
from typing import Any
from urllib.parse import parse_qsl

from pydantic import JsonValue
from starlette.requests import Request

from controlplane.errors import InvalidRequestError, RequestTooLargeError
from controlplane.ids import shown_name

MAX_JSON_BYTES = 10 * 1024 * 1024
"""Fits a message with images in it; larger content goes through /v1/files."""

MAX_DEPTH = 64
"""Deeper than any real schema, far below what Python's recursion bears."""

MAX_FIELDS = 1000
"""Of a form: far more than any sender of events has."""

DRAINED_BYTES = 64 * 1024 * 1024
"""How much of a refused body is read and thrown away, so that the client gets to read the answer."""


async def read(request: Request, *, limit: int = MAX_JSON_BYTES) -> bytes:
    """Return the body; raises `RequestTooLargeError` beyond ``limit`` bytes."""
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size <= limit:
            chunks.append(chunk)
        elif size > limit + DRAINED_BYTES:
            break
    if size > limit:
        raise too_large(limit)
    return b"".join(chunks)


def too_large(limit: int) -> RequestTooLargeError:
    """The error for a body beyond ``limit`` bytes."""
    return RequestTooLargeError(
        f"the body exceeds {limit} bytes",
        code="request_too_large",
        next_step="send less, or upload the content to /v1/files and refer to it",
    )


def parse(raw: bytes, content_type: str) -> JsonValue:
    """Return the JSON of a body; raises `InvalidRequestError` with the place of what is wrong."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        raise InvalidRequestError(
            "the content type is not JSON's",
            code="unsupported_media_type",
            field="Content-Type",
            next_step="send the body as application/json",
        )
    try:
        value = json.loads(raw.decode(), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise _malformed(f"not UTF-8 at byte {error.start}") from error
    except RecursionError as error:
        raise _malformed("nested too deeply") from error
    except ValueError as error:
        raise _malformed(str(error)) from error
    _check(value)
    return value


def parse_form(raw: bytes) -> dict[str, JsonValue]:
    """Return the fields of a form, those that are there more than once as lists; raises `InvalidRequestError`."""
    try:
        pairs = parse_qsl(
            raw.decode(), keep_blank_values=True, strict_parsing=True, errors="strict", max_num_fields=MAX_FIELDS
        )
    except ValueError as error:
        raise InvalidRequestError(
            f"the body is not a valid form: {error}",
            code="malformed_form",
            next_step="send fields as application/x-www-form-urlencoded has them, in UTF-8",
        ) from error
    found: dict[str, list[JsonValue]] = {}
    for name, value in pairs:
        found.setdefault(name, []).append(value)
    fields: dict[str, JsonValue] = {name: values[0] if len(values) == 1 else values for name, values in found.items()}
    _check(fields)
    return fields


def _malformed(reason: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"the body is not valid JSON: {reason}", code="malformed_json", next_step="send one JSON object in UTF-8"
    )


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _check(root: JsonValue) -> None:
    waiting: list[tuple[tuple[Any, ...], Any]] = [((), root)]
    while waiting:
        path, value = waiting.pop()
        if len(path) > MAX_DEPTH:
            raise _malformed(f"nested deeper than {MAX_DEPTH} levels")
        if isinstance(value, dict):
            for key, inner in value.items():
                _check_text(key, path)
                waiting.append(((*path, key), inner))
        elif isinstance(value, list):
            waiting.extend(((*path, index), inner) for index, inner in enumerate(value))
        elif isinstance(value, str):
            _check_text(value, path)
        elif isinstance(value, float) and not math.isfinite(value):
            raise _refused(path, "the number is too large")


def _check_text(text: str, path: tuple[Any, ...]) -> None:
    if "\x00" in text:
        raise _refused(path, "the character U+0000 cannot be stored")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise _refused(path, "half of a surrogate pair is not text") from error


def _refused(path: tuple[Any, ...], reason: str) -> InvalidRequestError:
    field = ".".join(shown_name(str(part)) for part in path)
    return InvalidRequestError(
        f"{field or 'body'}: {reason}",
        code="invalid_value",
        field=field or None,
        next_step="correct the field and send the request again",
    )
