"""A confined process that is spoken to in lines of JSON."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import structlog

from harness_adapters.driven.confinement import Confined
from harness_adapters.driven.native import HarnessFailedError

Json = dict[str, Any]
LAST_WORDS = 2000
"""Characters of what a process wrote to standard error last; they say why it died."""

_log = structlog.get_logger(__name__)


class LineProcess:
    """Reads what the process says, one object a line, and hands each to ``heard``; ``died`` when there is no more."""

    def __init__(self, name: str, confined: Confined, heard: Callable[[Json], Coroutine[Any, Any, None]]):
        self.confined = confined
        self.died: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._name = name
        self._heard = heard
        self._words = ""
        self._tasks = {asyncio.create_task(self._read()), asyncio.create_task(self._read_errors())}

    def say(self, message: Json) -> None:
        """Write one object; raises `HarnessFailedError` if nobody is there."""
        writer = self.confined.process.stdin
        if writer is None or writer.is_closing() or self.died.done():
            raise HarnessFailedError("the process is gone")
        writer.write(json.dumps(message, ensure_ascii=False).encode("utf-8", "replace") + b"\n")

    async def close(self) -> None:
        """Kill the process."""
        await self.confined.end()
        for task in list(self._tasks):
            task.cancel()
        if not self.died.done():
            self.died.set_result("it was ended")

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something beside, until the process ends."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _read(self) -> None:
        reader = self.confined.process.stdout
        while reader is not None:
            try:
                line = await reader.readline()
            except ValueError:
                break
            if not line:
                break
            with suppress(ValueError):
                if isinstance(message := json.loads(line), dict):
                    await self._heard(message)
        with suppress(ProcessLookupError):
            self.confined.process.kill()
        code = await self.confined.process.wait()
        if not self.died.done():
            said = self._words.strip().rpartition("\n")[2]
            self.died.set_result(f"it ended with {code}" + (f": {said[:300]}" if said else ""))

    async def _read_errors(self) -> None:
        reader = self.confined.process.stderr
        while reader is not None and (chunk := await reader.read(4096)):
            self._words = (self._words + chunk.decode(errors="replace"))[-LAST_WORDS:]
