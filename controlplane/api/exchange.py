"""One authenticated request: its workspace, its body, and its effect, which happens once per idempotency key."""

import hashlib
import hmac
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Annotated, Any, Generic, TypeVar

from fastapi import Depends
from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from controlplane.api import bodies
from controlplane.api.errors import invalid_model
from controlplane.api.parts import Parts, parts_of
from controlplane.errors import InvalidRequestError, PermissionDeniedError
from controlplane.ids import shown_name
from controlplane.store import idempotency
from controlplane.store.keys import KeyRecord
from controlplane.store.pool import Connection

M = TypeVar("M", bound=BaseModel)

_LONGEST_IDEMPOTENCY_KEY = 255

Effect = Callable[[Connection], Awaitable[BaseModel]]


class Exchange:
    """A request that was let in."""

    def __init__(self, request: Request, parts: Parts, key: KeyRecord):
        self.request = request
        self.parts = parts
        self.workspace_id = key.workspace_id
        self.key_id = key.id
        self._may_decide = key.may_decide
        self._digest = hashlib.sha256()
        self.hash_in(f"{request.method} {request.url.path}?{request.url.query}\n".encode())

    def hash_in(self, part: bytes) -> None:
        """Count ``part`` among what makes this request the same as another."""
        self._digest.update(part)

    def require_decider(self, what: str) -> None:
        """Refuse a key that may not decide; ``what``: what it was used for."""
        if not self._may_decide:
            raise PermissionDeniedError(
                f"this API key may not {what}: it was made without 'may_decide'",
                code="key_may_not_decide",
                field="x-api-key",
                next_step="use a key that may, or have somebody decide who has one",
            )

    def transaction(self) -> AbstractAsyncContextManager[Connection]:
        """Open a transaction that sees the caller's workspace."""
        return self.parts.database.transaction(self.workspace_id)

    async def once(self, effect: Effect, *, session_id: str | None = None) -> Response:
        """Run ``effect`` and answer with what it returns, or answer as the first request with this key was.

        ``session_id``: of which session the answer holds content, where neither the path nor the answer says it.
        The effect, the claim of the key and the answer are one transaction: whatever fails leaves none of them.
        """
        key = _idempotency_key(self.request)
        async with self.transaction() as connection:
            if key is None:
                return json_response(await effect(connection))
            first = await idempotency.claim(connection, self.workspace_id, key=key, request_hashes=self._hashes())
            if first is not None:
                return JSONResponse(first.response, first.status_code, {"idempotent-replayed": "true"})
            answer = (await effect(connection)).model_dump(mode="json")
            session_id = session_id or self.request.path_params.get("session_id") or _session_of(answer)
            await idempotency.record(
                connection,
                self.workspace_id,
                key=key,
                status_code=200,
                response=answer,
                session_id=session_id,
            )
        return JSONResponse(answer)

    def _hashes(self) -> list[bytes]:
        """Return the request's hash under each master key: without one, a short secret could be guessed from it."""
        digest = self._digest.digest()
        keys = self.parts.keyring.derived("idempotency")
        return [hmac.digest(key, digest, "sha256") for key in keys] or [digest]


async def open_exchange(request: Request) -> Exchange:
    """Let a request in, or raise what keeps it out."""
    parts = parts_of(request)
    key = await parts.authenticator.authenticate(request)
    for name, value in (*request.path_params.items(), *request.query_params.multi_items()):
        if "\x00" in value:
            raise InvalidRequestError(
                f"{shown_name(name)}: a NUL is in no value that is stored",
                code="invalid_value",
                field=shown_name(name),
                next_step="leave it out",
            )
    return Exchange(request, parts, key)


CurrentExchange = Annotated[Exchange, Depends(open_exchange)]


class BodyReader(Generic[M]):
    """Reads a JSON body into a model, after the caller was let in; ``optional``: no body is an empty one."""

    def __init__(self, model: type[M], *, optional: bool = False):
        self.model = model
        self.optional = optional

    async def __call__(self, exchange: CurrentExchange) -> M:
        """Return the body; raises `InvalidRequestError` with the field, or `RequestTooLargeError`."""
        raw = await bodies.read(exchange.request)
        exchange.hash_in(raw)
        if self.optional and not raw:
            raw = b"{}"
        data = bodies.parse(raw, exchange.request.headers.get("content-type", "application/json"))
        try:
            return self.model.model_validate(data)
        except ValidationError as error:
            raise invalid_model(error, data) from error


def reads(model: type[M], *, optional: bool = False) -> Any:
    """Declare the default of a parameter that takes the body."""
    return Depends(BodyReader(model, optional=optional))


def json_response(answer: BaseModel) -> Response:
    """Return ``answer`` as JSON."""
    return Response(answer.model_dump_json(), media_type="application/json")


def _session_of(answer: dict[str, Any]) -> str | None:
    return answer["id"] if answer.get("type") == "session" else None


def _idempotency_key(request: Request) -> str | None:
    key = request.headers.get("idempotency-key")
    if key is None:
        return None
    if not 1 <= len(key) <= _LONGEST_IDEMPOTENCY_KEY or not key.isprintable():
        raise InvalidRequestError(
            f"an idempotency key has 1 to {_LONGEST_IDEMPOTENCY_KEY} printable characters",
            code="invalid_idempotency_key",
            field="Idempotency-Key",
            next_step="send a fresh UUID",
        )
    return key
