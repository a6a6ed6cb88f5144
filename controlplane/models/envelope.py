"""Errors of the gateway's own, in the envelope of the wire format that was asked."""

from typing import Any

from starlette.responses import JSONResponse

from harness_adapters.contract import WireFormat

PATHS: dict[WireFormat, str] = {
    "anthropic": "/v1/messages",
    "openai": "/v1/chat/completions",
    "openai-responses": "/v1/responses",
}
"""Where each format is asked for."""

FORMAT_NAMES: dict[WireFormat, str] = {
    "anthropic": "Anthropic Messages",
    "openai": "OpenAI Chat Completions",
    "openai-responses": "OpenAI Responses",
}

_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    529: "overloaded_error",
}


def error_body(wire_format: WireFormat, status: int, message: str, *, code: str | None = None) -> dict[str, Any]:
    """Return an error as a provider of this format would word it."""
    kind = _ANTHROPIC_TYPES.get(status, "api_error")
    if wire_format == "anthropic":
        return {"type": "error", "error": {"type": code or kind, "message": message}}
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def error_response(
    wire_format: WireFormat,
    status: int,
    message: str,
    *,
    code: str | None = None,
    headers: dict[str, str] | None = None,
) -> JSONResponse:
    """Return `error_body` with its status."""
    return JSONResponse(error_body(wire_format, status, message, code=code), status_code=status, headers=headers)
