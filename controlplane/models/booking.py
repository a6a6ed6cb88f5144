"""The accounting of one request, from its reservation to what it came to."""

import asyncio
import time
from dataclasses import replace

import psycopg
import structlog

from controlplane.models.routing import Route
from controlplane.models.tokens import TurnGate
from controlplane.store.ledger import Outcome, RefusedError, Release, State, Wanted
from harness_adapters.contract import Usage
from harness_adapters.model.meter import Meter

POSTGRES_AWAY = (psycopg.Error, TimeoutError)
"""What a use of Postgres raises that does not answer, or not in time."""

_log = structlog.get_logger(__name__)


class UnsettledError(Exception):
    """What a request came to is not on record, so that its answer must not be completed."""


class Booking:
    """A request that has been reserved; what it came to is recorded once, whoever says so first.

    ``sent``: whether a provider may have seen it. ``status``: of the provider's answer.
    """

    def __init__(self, gate: TurnGate, token: bytes, wanted: Wanted):
        self._gate = gate
        self._token = token
        self._wanted = wanted
        self._asked_at = time.perf_counter()
        self._settling: asyncio.Task[bool] | None = None
        self._first_byte_ms: int | None = None
        self.sent = False
        self.status: int | None = None

    @property
    def request_id(self) -> str:
        """The request's id in the ledger."""
        return self._wanted.request_id

    def mark_sent(self) -> None:
        """Keep that a provider may have seen the request."""
        self.sent = True

    def mark_first_byte(self) -> None:
        """Keep when the first byte of the answer was there."""
        if self._first_byte_ms is None:
            self._first_byte_ms = round((time.perf_counter() - self._asked_at) * 1000)

    async def reserve(self) -> None:
        """Reserve what the request will cost; raises `RefusedError`, or one of `POSTGRES_AWAY`."""
        await self._gate.reserve(self._token, self._wanted)

    async def fall_back(self, route: Route) -> bool:
        """Book the request on another model, and say whether it may be sent there."""
        wanted = replace(
            self._wanted,
            model=route.model,
            provider=route.provider,
            upstream_model=route.upstream_model,
            free=route.free,
            fallback_for=self._wanted.fallback_for or self._wanted.model,
        )
        try:
            await self._gate.fall_back(self._token, wanted, left=self._left())
        except (RefusedError, *POSTGRES_AWAY) as error:
            _log.warning("model_fallback_refused", model=route.model, cause=str(error))
            return False
        self._wanted, self.sent, self.status = wanted, False, None
        return True

    async def settle_answer(self, meter: Meter) -> None:
        """Record what an answer used; raises `UnsettledError`. To do it again changes nothing."""
        if self._settling is not None or meter.ending != "whole":
            await self._settle("lost")
        elif usage := meter.usage:
            await self._settle("metered", usage)
        else:
            output = meter.output_estimate
            estimate = Usage(input_tokens=self._wanted.input_tokens, output_tokens=output) if output else None
            _log.warning("model_answer_without_usage", model=self._wanted.model, provider=self._wanted.provider)
            await self._settle("lost", estimate)

    async def settle_refusal(self) -> None:
        """Record that the provider refused, or was not asked, or that nobody knows; raises `UnsettledError`."""
        await self._settle(self._left())

    async def give_up(self) -> None:
        """Record that nobody takes the answer any more, unless it is on record what it came to."""
        try:
            await self._settle(self._left())
        except UnsettledError as error:
            _log.warning("model_request_unsettled", request_id=self.request_id, cause=str(error))

    def _left(self) -> Release:
        is_refused = self.status is not None and not 200 <= self.status < 300
        return "lost" if self.sent and not is_refused else "free"

    async def _settle(self, state: State, usage: Usage | None = None) -> None:
        # A task of its own: whoever waits for it may be cancelled, and the settlement must not be.
        if self._settling is None:
            outcome = Outcome(state, usage, status=self.status, first_byte_ms=self._first_byte_ms)
            self._settling = asyncio.create_task(self._gate.settle(self.request_id, outcome))
        try:
            taken = await asyncio.shield(self._settling)
        except POSTGRES_AWAY as error:
            raise UnsettledError(f"Postgres does not take what the request came to ({error})") from error
        if not taken:
            raise UnsettledError("the request was given up meanwhile")
