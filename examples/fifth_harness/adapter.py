"""The adapter of `agent.py`: how it is started, and what each side says to the other."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness_adapters.contract import HistoryItem, UserInput
from harness_adapters.driven.confinement import PROGRAM_AT, Confined, Confinement, Program
from harness_adapters.driven.native import Host, Kind, Native
from harness_adapters.driven.process import LineProcess
from harness_adapters.model import anthropic

NAME = "fifth"
MEMORY_MB = 256
MODULES = ("collections", "encodings.idna", "json", "typing", "urllib.request")
"""What the agent imports, and what connecting to an address needs."""


def kind(folder: Path, confinement: Confinement, *, processes: int) -> Kind:
    """Return what the pool needs to know; ``folder`` holds ``agent.py``."""

    async def start(process_id: str, host: Host, first: Native, _history: Sequence[HistoryItem], /) -> AgentProcess:
        program = Program(
            name=NAME,
            folder=folder,
            command=[f"{PROGRAM_AT}/agent.py"],
            modules=MODULES,
            memory_mb=MEMORY_MB,
        )
        return AgentProcess(await confinement.start(program, process_id), host, first)

    return Kind(name=NAME, start=start, close=confinement.close, sessions_per_process=1, processes=processes)


class AgentProcess(LineProcess):
    """A `NativeProcess` of one session, which says objects of JSON, one a line, and is told such."""

    def __init__(self, confined: Confined, host: Host, native: Native):
        super().__init__(NAME, confined, self._told)
        self._host = host
        self._key = native.key

    async def ready(self) -> None:
        """See `NativeProcess.ready`; what it is told before it listens waits in the pipe."""

    async def open(self, native: Native, history: Sequence[HistoryItem], /) -> None:
        """See `NativeProcess.open`."""
        self.say({"url": f"{native.base_url}/v1/messages", "request": anthropic.request(native.spec, history)})

    async def prompt(self, _native: Native, inputs: Sequence[UserInput], /) -> None:
        """See `NativeProcess.prompt`."""
        self.say({"said": [block for each in inputs for block in anthropic.said(each)]})

    async def cancel(self, _native: Native, /) -> None:
        """See `NativeProcess.cancel`; what it asks for by now is refused, and the process ends with its session."""

    async def forget(self, _native: Native, /) -> None:
        """See `NativeProcess.forget`; as above."""

    def _told(self, message: dict[str, Any]) -> None:
        if "call" in message:
            self.spawn(self._call(message["call"], message["name"], message["input"]))
        else:
            self._host.ended(self._key)

    async def _call(self, call_id: str, name: str, value: dict[str, Any]) -> None:
        told = await self._host.call(self._key, call_id, name, value)
        self.say({"content": told.text, "is_error": told.is_error})
