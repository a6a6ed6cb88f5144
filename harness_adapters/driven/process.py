"""A confined process that is spoken to in lines of JSON."""

import asyncio
import itertools
import json
import re
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import structlog

from harness_adapters.driven.confinement import Confined
from harness_adapters.driven.native import HarnessFailedError

Json = dict[str, Any]
LAST_WORDS = 2000
"""Characters of what a process wrote to standard error last; they say why it died."""

ANSWER_SECONDS = 30.0
"""Every harness answers within a second unless the machine has no time for it, or it hangs."""

_COLOURS = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f]")
"""What is meant for a terminal."""

_log = structlog.get_logger(__name__)


class LineProcess:
    """Hands what the process says to ``heard``, one object a line; ``died`` when there is no more of it.

    A line that is none is left to it. An object that cannot be understood is taken for its death: it would not be
    known any more what it waits for.
    """

    def __init__(self, name: str, confined: Confined, heard: Callable[[Json], None]):
        self.confined = confined
        self.died: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._name = name
        self._heard = heard
        self._words = ""
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Json]] = {}
        self._tasks = {asyncio.create_task(self._read()), asyncio.create_task(self._read_errors())}

    def say(self, message: Json) -> None:
        """Write one object; raises `HarnessFailedError` if nobody is there."""
        writer = self.confined.process.stdin
        if writer is None or writer.is_closing() or self.died.done():
            raise HarnessFailedError("the process is gone")
        writer.write(json.dumps(message, ensure_ascii=False).encode("utf-8", "replace") + b"\n")

    async def ask(self, what: str, message: Callable[[int], Json], *, seconds: float = ANSWER_SECONDS) -> Json:
        """Write the object that asks under a number, and return what `answered` is told of that.

        Raises `HarnessFailedError` if it is told of a failure, there is no answer in time, or the process dies.
        """
        number = next(self._numbers)
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            self.say(message(number))
            async with asyncio.timeout(seconds):
                return await answer
        except TimeoutError as error:
            raise HarnessFailedError(f"{what}: no answer within {seconds:g} seconds") from error
        finally:
            del self._waiting[number]

    def answered(self, number: object, result: Json | None, *, failure: object = None) -> None:
        """Take note of an answer; one that nobody waits for any more is left."""
        waiting = self._waiting.get(number) if isinstance(number, int) else None
        if waiting is None or waiting.done():
            return
        if failure is None:
            waiting.set_result(result or {})
        else:
            waiting.set_exception(HarnessFailedError(str(failure)[:500]))

    async def close(self) -> None:
        """Kill the process."""
        await self.confined.end()
        for task in list(self._tasks):
            task.cancel()
        self._die("it was ended")

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something beside, until the process ends."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.warning("harness_not_served", harness=self._name, error=type(error).__name__)

    def _die(self, why: str) -> None:
        if self.died.done():
            return
        self.died.set_result(why)
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(HarnessFailedError(why))

    async def _read(self) -> None:
        reader, misunderstood = self.confined.process.stdout, ""
        while reader is not None and not misunderstood:
            try:
                line = await reader.readline()
                if not line:
                    break
                if line.startswith(b"{"):
                    self._heard(json.loads(line))
            except (ValueError, LookupError, TypeError, AttributeError) as error:
                misunderstood = f"it said what cannot be understood ({error!r:.100})"
        with suppress(ProcessLookupError):
            self.confined.process.kill()
        code = await self.confined.process.wait()
        said = _COLOURS.sub("", self._words).strip().rpartition("\n")[2]
        self._die(misunderstood or f"it ended with {code}" + (f": {said[:300]}" if said else ""))

    async def _read_errors(self) -> None:
        reader = self.confined.process.stderr
        while reader is not None and (chunk := await reader.read(4096)):
            self._words = (self._words + chunk.decode(errors="replace"))[-LAST_WORDS:]
