"""What a harness's own program must be able to do; each adapter says how."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from harness_adapters.contract import HarnessSpec, HistoryItem, UserInput
from harness_adapters.driven.confinement import ADDRESS, Confined

GO_ON = "[Go on with the work.]"
"""Said to a harness that is to act on a tool's result: none of them does so unasked. The model never sees it."""


class HarnessFailedError(Exception):
    """The harness's process died, fell silent or gave up: the turn goes on in another, from what is recorded."""


@dataclass(frozen=True)
class Native:
    """A session inside a harness's process, by the key under which both sides know it."""

    key: str
    spec: HarnessSpec

    @property
    def base_url(self) -> str:
        """Where the session's model requests go, without the format's own path."""
        return "http://{}:{}/s/{}".format(*ADDRESS, self.key)


class NoTurnError(Exception):
    """The session has no running turn, or the turn is about to end: nothing it asks for is done any more."""


@dataclass(frozen=True)
class Told:
    """What a harness is told of a tool call: text alone, which each of them takes."""

    text: str
    is_error: bool


class Host(Protocol):
    """What a process tells about its sessions, and asks for them; each by its key."""

    def ended(self, key: str, failure: str | None = None) -> None:
        """Take note that the harness has ended the session's turn; ``failure``: why, if it was not by itself."""
        ...

    async def call(self, key: str, call_id: str | None, name: str, value: dict[str, Any]) -> Told:
        """Return what a tool call came to; ``call_id``: the model's own, where it is known."""
        ...


class NativeProcess(Protocol):
    """One running process of a harness. Everything raises `HarnessFailedError` if it does not do as it is told."""

    confined: Confined
    died: asyncio.Future[str]
    """Done when the process is gone, with what is known of why."""

    async def ready(self) -> None:
        """Wait until sessions can be opened in it; whoever started it closes it if that fails."""
        ...

    async def open(self, native: Native, history: Sequence[HistoryItem], /) -> None:
        """Open a session that begins with ``history``: without an open tool use, and up to what is said next."""
        ...

    async def prompt(self, native: Native, inputs: Sequence[UserInput], /) -> None:
        """Start a turn with what the user says; nothing: `GO_ON`."""
        ...

    async def cancel(self, native: Native, /) -> None:
        """Stop the session's turn."""
        ...

    async def forget(self, native: Native, /) -> None:
        """Close a session."""
        ...

    async def close(self) -> None:
        """End the process, at once."""
        ...


class Start(Protocol):
    """Starts a process of a harness for the session that is opened in it first."""

    async def __call__(
        self, process_id: str, host: Host, first: Native, history: Sequence[HistoryItem], /
    ) -> NativeProcess:
        """Return the process as soon as there is one; raises `OSError` or `HarnessFailedError`."""
        ...


@dataclass(frozen=True)
class Kind:
    """What differs from harness to harness, beside the process itself.

    ``tool_name`` takes off what the harness puts before a tool's name. ``sessions_per_process``: 1 where a process
    can hold only one. ``processes``: as many at most, whatever waits. ``fillers``: what the harness puts into a
    conversation of its own accord, role by text; the model is not shown it. ``result_characters``: as many as it
    takes of a tool's result. ``close``: called when nothing is started any more.
    """

    name: str
    start: Start
    close: Callable[[], None]
    sessions_per_process: int
    processes: int
    tool_name: Callable[[str], str] = str
    fillers: Mapping[str, str] = field(default_factory=dict[str, str])
    result_characters: int | None = None
