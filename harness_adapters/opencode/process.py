"""One ``opencode serve``, spoken to by way of what runs inside it: its own interface is reached by nobody else."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx

from harness_adapters.contract import HarnessSpec, HistoryItem, UserInput, WireFormat
from harness_adapters.driven.confinement import PROGRAM_AT, Confined, Confinement, Program
from harness_adapters.driven.native import GO_ON, HarnessFailedError, Host, Kind, Native
from harness_adapters.driven.process import ANSWER_SECONDS, LineProcess
from harness_adapters.model.client import CONNECT_SECONDS, ROUTE_SECONDS
from harness_adapters.opencode.configuration import (
    AGENT,
    ENVIRONMENT,
    FILES,
    LINKS,
    PREFIX,
    PROVIDER,
    Place,
    session,
)
from harness_adapters.opencode.history import events, parts

SESSIONS = 32
MEMORY_MB = 1536
"""Measured: 410 MB with one session, 590 MB with 16."""

HEALTH_SECONDS, HEALTH_PAUSE_SECONDS = 1.0, 0.1
"""A question whether it serves yet that comes at the wrong moment of its start is never answered."""

GATEWAY_SECONDS, GATEWAY_PAUSE_SECONDS = 30.0, 0.2

EVENTS_AT_ONCE = 100
"""Of a history that is put into a session: other sessions wait meanwhile, 3 ms for each."""

IDLE_PLACES = 4
"""As many places without a session are kept: each takes memory, and making it anew takes time."""

Json = dict[str, Any]


def kind(folder: Path, confinement: Confinement, *, processes: int) -> Kind:
    """Return what the pool needs to know; ``folder`` holds ``opencode``."""
    formats = _Formats()

    async def start(
        process_id: str, host: Host, _first: Native, _history: Sequence[HistoryItem], /
    ) -> OpenCodeProcess:
        program = Program(
            name="opencode",
            folder=folder,
            command=[f"{PROGRAM_AT}/opencode", "serve", "--port", "4096"],
            memory_mb=MEMORY_MB,
            environment=ENVIRONMENT,
            files=FILES,
            links=LINKS,
        )
        return OpenCodeProcess(await confinement.start(program, process_id), host, formats)

    return Kind(
        name="opencode",
        start=start,
        close=confinement.close,
        sessions_per_process=SESSIONS,
        processes=processes,
        tool_name=lambda name: name.removeprefix(PREFIX),
    )


class _Formats:
    """In which format each model is asked, as the gateway says."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], tuple[float, WireFormat]] = {}

    async def of(self, spec: HarnessSpec) -> WireFormat:
        """Return a model's format, any for a model that nobody serves; raises `HarnessFailedError`."""
        key = (spec.gateway_url, spec.model)
        known_until, known = self._known.get(key, (0.0, None))
        if known is not None and time.monotonic() < known_until:
            return known
        answer = await _route(spec)
        if answer.status_code != 200:
            return "anthropic"  # A request in whichever format is answered with what is wrong.
        known = answer.json()["formats"][0]
        self._known[key] = (time.monotonic() + ROUTE_SECONDS, known)
        return known


async def _route(spec: HarnessSpec) -> httpx.Response:
    """Ask the gateway for a model's formats, again for a while if it is being restarted."""
    give_up_at = time.monotonic() + GATEWAY_SECONDS
    async with httpx.AsyncClient(trust_env=False, timeout=CONNECT_SECONDS) as client:
        while True:
            try:
                answer = await client.get(f"{spec.gateway_url}/v1/routes", params={"model": spec.model})
                if answer.status_code < 500:
                    return answer
                said = f"HTTP {answer.status_code}"
            except httpx.HTTPError as error:
                said = type(error).__name__
            if time.monotonic() > give_up_at:
                raise HarnessFailedError(f"the model gateway does not answer ({said})")
            await asyncio.sleep(GATEWAY_PAUSE_SECONDS)


@dataclass
class _Session:
    place: Place
    id: str = ""


@dataclass
class _Places:
    """Which places there are, in the order in which they were left, and how many sessions each has."""

    sessions: Counter[Place] = field(default_factory=Counter[Place])

    def enter(self, place: Place) -> bool:
        """Count a session in; return whether the place is new."""
        is_new = place not in self.sessions
        self.sessions[place] += 1
        return is_new

    def leave(self, place: Place) -> Place | None:
        """Count a session out; return a place that is to be given up."""
        self.sessions[place] -= 1
        if not self.sessions[place]:
            self.sessions[place] = self.sessions.pop(place)
        idle = [each for each, count in self.sessions.items() if not count]
        if len(idle) <= IDLE_PLACES:
            return None
        del self.sessions[idle[0]]
        return idle[0]


class OpenCodeProcess:
    """A `NativeProcess`; its database is in memory: sessions leave nothing, and are opened from the log."""

    def __init__(self, confined: Confined, host: Host, formats: _Formats):
        self._lines = LineProcess("opencode", confined, self._heard)
        self.confined = confined
        self.died = self._lines.died
        self._host = host
        self._formats = formats
        self._sessions: dict[str, _Session] = {}
        self._keys: dict[str, str] = {}
        self._places = _Places()
        self._placing = asyncio.Lock()

    async def ready(self) -> None:
        """See `NativeProcess.ready`."""
        while True:
            try:
                await self._api("GET", "/global/health", seconds=HEALTH_SECONDS)
            except HarnessFailedError:
                if self.died.done():
                    raise
                await asyncio.sleep(HEALTH_PAUSE_SECONDS)
            else:
                return

    async def open(self, native: Native, history: Sequence[HistoryItem], /) -> None:
        """See `NativeProcess.open`."""
        place = Place.of(native.spec, await self._formats.of(native.spec))
        async with self._placing:
            is_new = self._places.enter(place)
            held = self._sessions[native.key] = _Session(place)
            if is_new:
                await self._ask("place", place.told())
            model = {"providerID": PROVIDER, "id": place.model}
            new = {"title": native.spec.session_id, "agent": AGENT, "model": model}
            held.id = session_id = str((await self._api("POST", "/session", place, new))["id"])
        self._keys[session_id] = native.key
        await self._ask("session", session(native, session_id, place.wire_format))
        written = events(history, session_id, place)
        for first in range(0, len(written), EVENTS_AT_ONCE):
            some = written[first : first + EVENTS_AT_ONCE]
            await self._api("POST", "/sync/replay", place, {"directory": place.directory, "events": some})

    async def prompt(self, native: Native, inputs: Sequence[UserInput], /) -> None:
        """See `NativeProcess.prompt`."""
        held = self._sessions[native.key]
        said = [part for each in inputs for part in parts(each, held.place.wire_format)]
        model = {"providerID": PROVIDER, "modelID": held.place.model}
        body = {"agent": AGENT, "model": model, "parts": said or [{"type": "text", "text": GO_ON}]}
        await self._api("POST", f"/session/{held.id}/prompt_async", held.place, body)

    async def cancel(self, native: Native, /) -> None:
        """See `NativeProcess.cancel`."""
        if (held := self._sessions.get(native.key)) is not None and held.id:
            await self._api("POST", f"/session/{held.id}/abort", held.place)

    async def forget(self, native: Native, /) -> None:
        """See `NativeProcess.forget`."""
        if (held := self._sessions.pop(native.key, None)) is None:
            return
        if held.id:
            self._keys.pop(held.id, None)
            await self._api("DELETE", f"/session/{held.id}", held.place)
            await self._ask("forget", {"id": held.id})
        async with self._placing:
            if (left := self._places.leave(held.place)) is not None:
                await self._api("POST", "/instance/dispose", left)
                await self._ask("leave", {"directory": left.directory})

    async def close(self) -> None:
        """See `NativeProcess.close`."""
        await self._lines.close()

    async def _api(
        self,
        verb: str,
        path: str,
        place: Place | None = None,
        body: Json | None = None,
        *,
        seconds: float = ANSWER_SECONDS,
    ) -> Json:
        """Return what OpenCode's own interface answers."""
        query = "?" + urlencode({"directory": place.directory}) if place else ""
        answer = await self._ask("api", {"verb": verb, "path": path + query, "body": body}, seconds)
        if answer["status"] >= 300:
            raise HarnessFailedError(f"{verb} {path}: {answer['status']}: {answer['body'][:500]}")
        said: Any = json.loads(answer["body"]) if answer["body"] else {}
        return said if isinstance(said, dict) else {}

    async def _ask(self, method: str, params: Json, seconds: float = ANSWER_SECONDS) -> Json:
        def message(number: int) -> Json:
            return {"id": number, "method": method, "params": params}

        return await self._lines.ask(params.get("path", method), message, seconds=seconds)

    def _heard(self, message: Json) -> None:
        match message.get("method"):
            case "tool":
                self._lines.spawn(self._tool(message["id"], message["params"]))
            case "ended":
                ended = message["params"]
                if (key := self._keys.get(ended["session"])) is not None:
                    self._host.ended(key, ended["failure"])
            case _:
                self._lines.answered(message.get("id"), message.get("result"), failure=message.get("error"))

    async def _tool(self, number: int, asked: Json) -> None:
        key = self._keys.get(asked["session"], "")
        told = await self._host.call(key, asked["call_id"], asked["name"], asked["input"])
        self._lines.say({"id": number, "result": {"text": told.text, "is_error": told.is_error}})
