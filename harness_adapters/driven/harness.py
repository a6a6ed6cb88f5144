"""A turn of a harness that is a program of its own: it plans, and the turn asks, records and acts for it.

Whatever goes wrong on its side has one remedy: it is opened again from what is recorded.
"""

import asyncio
import itertools
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Any

import structlog

from harness_adapters.calls import caught_up
from harness_adapters.contract import (
    HarnessEvent,
    HarnessRestarted,
    HarnessSpec,
    HistoryItem,
    ModelAnswered,
    TurnFinished,
    TurnPort,
    UserInput,
)
from harness_adapters.driven.line import Asked, Calls
from harness_adapters.driven.native import HarnessFailedError, Kind
from harness_adapters.driven.pool import IDLE_SECONDS, Pool, Session
from harness_adapters.model.asker import Asker
from harness_adapters.model.conversation import Conversation
from harness_adapters.model.patience import Patience
from harness_adapters.model.rounds import uses

MOST_RESTARTS = 3
"""In a row, without an answer or an outcome between them."""

SILENCE_SECONDS = 60.0
"""How long a harness may do nothing while it is its turn to: it has no work but to write the next request."""

_log = structlog.get_logger(__name__)


class DrivenHarness:
    """A `Harness` that drives the processes of one kind."""

    def __init__(
        self,
        new_id: Callable[[], str],
        kind: Kind,
        *,
        patience: Patience | None = None,
        idle_seconds: float = IDLE_SECONDS,
        silence_seconds: float = SILENCE_SECONDS,
    ):
        self._kind = kind
        self._asker = Asker(new_id, patience=patience)
        self._pool = Pool(kind, idle_seconds=idle_seconds)
        self._silence_seconds = silence_seconds

    async def close(self) -> None:
        """End the processes."""
        await self._pool.close()
        await self._asker.close()

    async def run_turn(
        self, spec: HarnessSpec, history: list[HistoryItem], tools: TurnPort
    ) -> AsyncGenerator[HarnessEvent]:
        """Continue ``history``; see `Harness.run_turn`. Exceptions of ``tools`` come out as they are."""
        turn, restarts, known = Conversation(spec, list(history), spec.max_model_requests), 0, 0
        while True:
            if ending := await caught_up(turn, tools):
                yield ending
                return
            restarts, known = (restarts if len(turn.history) == known else 0), len(turn.history)
            finished = False
            try:
                async with aclosing(self._round(turn, tools)) as steps:
                    async for step in steps:
                        finished = isinstance(step, TurnFinished)
                        yield step
            except HarnessFailedError as error:
                restarts += 1
                said = f"the harness {self._kind.name!r} failed: {error}"
                _log.warning("harness_failed", harness=self._kind.name, cause=str(error), restarts=restarts)
                if restarts > MOST_RESTARTS:
                    yield TurnFinished(reason="failed", message=said)
                    return
                yield HarnessRestarted(message=said)
            if finished:
                return

    async def _round(self, turn: Conversation, tools: TurnPort) -> AsyncGenerator[HarnessEvent]:
        """Let the harness work until the turn has ended, or until it is to be opened again from ``turn.history``."""
        known, prompt = split(turn.history)
        session = await self._pool.lease(turn.spec, known)
        calls: Calls | None = None
        is_kept = False
        session.line.open()
        try:
            await session.process.prompt(session.native, prompt)
            while True:
                asked = await self._next(session, calls)
                if asked is None:
                    yield TurnFinished(reason="parked")
                    return
                ended, calls = calls, None
                if not await _goes_on(turn, ended, asked, tools):
                    return
                answered = None
                async with aclosing(self._asker.answer(turn, asked.passed_on)) as steps:
                    async for step in steps:
                        yield step
                        answered = step if isinstance(step, ModelAnswered) else None
                if answered is None:
                    return
                turn.goes_on(answered)
                is_over, is_told = not uses(answered.answer), asked.deliver()
                if is_over and is_told:
                    is_kept = True
                    self._pool.keep(session, turn.history)
                if is_over:
                    yield answered.ending(turn.spec)
                if is_over or not is_told:
                    return
                names = {tool.name for tool in turn.spec.tools}
                calls = session.line.calls = Calls(tools, answered.answer, asked.passed_on, names)
        finally:
            if calls is not None:
                await calls.stop()
                turn.history += calls.outcomes()
            if not is_kept:
                self._pool.drop(session)

    async def _next(self, session: Session, calls: Calls | None) -> Asked | None:
        """Wait for the harness's next model request, with all calls done by then; None: a call waits for somebody."""
        asking = asyncio.ensure_future(session.line.asked.get())
        try:
            while True:
                running = [task for task in calls.tasks if not task.done()] if calls else []
                for task in calls.tasks if calls else []:
                    if task.done():
                        task.result()
                if calls and not running and any(task.result() is None for task in calls.tasks):
                    return None
                if asking.done() and not running:
                    return asking.result()
                # A failed turn of the harness does not end the calls: their outcomes are the next one's history.
                watched: set[asyncio.Future[Any]] = {*running, *(() if asking.done() else (asking,))}
                if not (asking.done() and running):
                    watched.add(session.line.ended)
                done, _ = await asyncio.wait(
                    watched,
                    timeout=None if running else self._silence_seconds,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if session.line.ended in done and not running and not asking.done():
                    raise HarnessFailedError(session.line.ended.result() or "it ended its turn without an answer")
                if session.line.ended in done and running:
                    await asyncio.wait(running)
                    raise HarnessFailedError(session.line.ended.result() or "it ended its turn before its calls had")
                if not done:
                    self._pool.kill(session)
                    raise HarnessFailedError(f"it did nothing for {self._silence_seconds:g} seconds")
        finally:
            asking.cancel()


async def _goes_on(turn: Conversation, ended: Calls | None, asked: Asked, tools: TurnPort) -> bool:
    """Take what happened since the last answer; say whether the harness knows all of it, so that it can go on."""
    if ended is not None:
        turn.history += ended.outcomes()
    said = await tools.steering()
    turn.history += said
    # One that has given up on a call that went on is to be told what came of it, as one that somebody spoke to.
    return not said and asked.knows_calls


def split(history: Sequence[HistoryItem]) -> tuple[list[HistoryItem], list[UserInput]]:
    """Return what a harness is to know already, and what it is to be told next."""
    prompt = list(itertools.takewhile(lambda item: isinstance(item, UserInput), reversed(history)))[::-1]
    known = list(history[: len(history) - len(prompt)])
    return known, [item for item in prompt if isinstance(item, UserInput)]
