"""The front door as a user runs it: `bulkhead slack`, between the emulator and a control plane."""

import asyncio
import contextlib
import itertools
import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qs

import httpx
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from controlplane.frontdoors.slack.service import TIMEOUT_SECONDS
from controlplane.models.listening import listening
from tests.support.client import Client
from tests.support.emulator import APP_TOKEN, BOT_TOKEN, SIGNING_SECRET, Emulator, free_port
from tests.support.passage import Passage
from tests.support.published import Published
from tests.support.stack import Stack

Mode = Literal["events", "socket"]
Stage = Literal["came", "taken"]
STAGES: tuple[Stage, ...] = ("came", "taken")
"""Of a request: it has come, and nobody has acted on it; or it was acted on, and nobody was told."""

Fault = Literal["limit", "fail", "take_and_fail", "take_and_cut", "take_and_reset", "take_and_hang", "take_late"]

Stub = Callable[[dict[str, Any]], dict[str, Any] | Awaitable[dict[str, Any]]]

_READY_SECONDS = 60
_PATIENCE_SECONDS = 60
_RETRY_AFTER = "1"
_HANG_SECONDS = TIMEOUT_SECONDS + 5
_CLOSED = {"connection": "close"}
"""The emulator tells an event once: one over a connection that is being closed for being idle would be lost."""

_numbers = itertools.count(1)


@dataclass
class Call:
    """A request to the Web API that came, and was answered at ``at``."""

    at: float
    method: str
    place: str
    status: int
    message: str = ""
    thread: str = ""


@dataclass
class Relay:
    """Stands between the emulator and the front door, and does to what passes what Slack and networks do.

    ``faults``: what is done to the next requests of a method, or to those in a channel (``"chat.update C001"``).
    ``watch`` is called when a call has come, and again when Slack has taken it; true: nothing more is done about it.
    ``revoked`` and ``issued``: tokens that Slack does not take any more, and those that it gave in their place.
    ``stubs``: methods that the emulator lacks; each is a small stand-in of ours, shaped after slack_sdk's signatures.
    ``published``: Slack's published limits, which the emulator lacks as well.
    """

    emulator_url: str
    door_url: str = ""
    api_url: str = ""
    headers: dict[str, dict[str, str]] = field(default_factory=dict)
    faults: dict[str, list[Fault]] = field(default_factory=lambda: defaultdict(list))
    declines: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    revoked: set[str] = field(default_factory=set)
    issued: set[str] = field(default_factory=set)
    stubs: dict[str, Stub] = field(default_factory=dict)
    published: Published | None = None
    calls: list[Call] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    told_at: dict[str, float] = field(default_factory=dict)
    copies: int = 1
    watch: Callable[[str, Stage], Awaitable[bool]] | None = None
    hold: Callable[[dict[str, Any]], bool] | None = None
    held: list[tuple[bytes, dict[str, str]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._http = httpx.AsyncClient(timeout=30)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        body = await request.body()
        path = request.url.path
        if path.startswith("/api/"):
            answer = await self._web_api(request, path.removeprefix("/api/"), body)
            if answer is None:
                _reset(send)
                return
        else:
            answer = await self._event(request, body)
        await answer(scope, receive, send)

    async def _web_api(self, request: Request, method: str, body: bytes) -> Response | None:
        given = _arguments(request, body)
        place = str(given.get("channel") or given.get("channel_id") or "")
        due = self.faults[f"{method} {place}"] or self.faults[method]
        fault = due.pop(0) if due else None
        if self.watch is not None and await self.watch(method, "came"):
            return Response("lost", 500)
        if self.declines[method]:
            return JSONResponse({"ok": False, "error": self.declines[method].pop(0)})
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        if token in self.revoked:
            return JSONResponse({"ok": False, "error": "token_revoked"})
        wait = self.published.wait(method, place) if self.published is not None else 0
        if fault == "limit" or wait:
            self.calls.append(Call(time.monotonic(), method, place, 429))
            retry_after = str(wait) if wait else _RETRY_AFTER
            return JSONResponse({"ok": False, "error": "ratelimited"}, 429, {"Retry-After": retry_after})
        if fault == "fail":
            self.calls.append(Call(time.monotonic(), method, place, 500))
            return Response("troubled", 500)
        if fault == "take_late":
            await asyncio.sleep(_HANG_SECONDS)
        url = f"{self.emulator_url}/api/{method}"
        kept = {k: v for k, v in request.headers.items() if k in ("authorization", "content-type")}
        if token in self.issued:
            kept["authorization"] = f"Bearer {BOT_TOKEN}"
        if method in self.stubs:
            found = self.stubs[method](given)
            answer = await found if isinstance(found, Awaitable) else found
            passed = httpx.Response(200, json=answer)
        else:
            passed = await self._http.request(
                request.method, url, params=request.query_params, content=body, headers=kept
            )
        message, thread = str(given.get("timestamp", "")), str(given.get("thread_ts", ""))
        self.calls.append(Call(time.monotonic(), method, place, passed.status_code, message, thread))
        if self.watch is not None and await self.watch(method, "taken"):
            return Response("lost", 500)
        if fault == "take_and_fail":
            return Response("troubled", 500)
        if fault == "take_and_reset":
            return None
        if fault == "take_and_hang":
            await asyncio.sleep(_HANG_SECONDS)
        if fault == "take_and_cut":
            # Announces more than it sends: the connection ends in the middle of the answer.
            return Response(b"{", headers={"content-type": "application/json", "content-length": "100"})
        more = {"content-type": "application/json", **self.headers.get(method, {})}
        return Response(passed.content, passed.status_code, more)

    async def _event(self, request: Request, body: bytes) -> Response:
        names = ("content-type", "x-slack-signature", "x-slack-request-timestamp")
        headers = {k: v for k, v in request.headers.items() if k in names}
        if headers["content-type"] == "application/json":
            told = json.loads(body)
            self.events.append(told)
            self.told_at.setdefault(str(told["event"].get("ts")), time.monotonic())
            if self.hold is not None and self.hold(told):
                self.held.append((body, headers))
                return Response("", headers=_CLOSED)
        answer: httpx.Response | None = None
        for _ in range(self.copies):
            answer = await self.tell(body, headers)
        assert answer is not None
        content_type = answer.headers.get("content-type", "")
        return Response(answer.content, answer.status_code, {"content-type": content_type, **_CLOSED})

    async def tell(self, body: bytes, headers: dict[str, str]) -> httpx.Response:
        """Tell the front door something, and again until it has acknowledged it, as Slack does."""
        for _ in range(200):
            try:
                answer = await self._http.post(self.door_url, content=body, headers=headers)
                if answer.status_code < 500:
                    return answer
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.1)
        raise AssertionError("the front door never acknowledged an event")

    async def ask(self, method: str, body: dict[str, Any], *, token: str) -> dict[str, Any]:
        """Ask the emulator itself."""
        headers = {"authorization": f"Bearer {token}"}
        return (await self._http.post(f"{self.emulator_url}/api/{method}", json=body, headers=headers)).json()

    async def release(self) -> None:
        """Tell what was held back, the latest first."""
        self.hold = None
        while self.held:
            await self.tell(*self.held.pop())

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()


@dataclass
class Process:
    """One `bulkhead slack`, and what it logs."""

    running: subprocess.Popen[bytes]
    log: Path

    async def ready(self) -> None:
        """Wait until it is open."""
        async with asyncio.timeout(_READY_SECONDS):
            while b"front_door_open" not in self.log.read_bytes():
                assert self.running.poll() is None, self.tail()
                await asyncio.sleep(0.05)

    def kill(self) -> None:
        """Kill it."""
        self.running.kill()
        self.running.wait()

    def end(self) -> None:
        """End it if it still runs."""
        self.running.terminate()
        try:
            self.running.wait(20)
        except subprocess.TimeoutExpired:
            self.kill()

    def tail(self, lines: int = 60) -> str:
        """Return the end of what it logged."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


class Door:
    """`bulkhead slack`: the process that Slack knows, and others of the same front door that it does not know of."""

    def __init__(self, stack: Stack, *, slack_url: str, api_url: str, folder: Path, front_door: str):
        self._stack = stack
        self._slack_url = slack_url
        self._api_url = api_url
        self.port = free_port()
        self._folder = folder
        self._front_door = front_door
        self._processes: list[Process] = []

    @property
    def known(self) -> Process:
        """The newest of those that Slack knows."""
        return self._processes[-1]

    def start(self, *, port: int | None = None) -> Process:
        """Start a process; one with a port of its own is no concern of `kill`."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("BULKHEAD_")} | {
            "BULKHEAD_DATA_DIR": str(self._stack.data_dir),
            "BULKHEAD_SLACK_API_URL": self._slack_url,
            "BULKHEAD_SLACK_FRONT_DOOR": self._front_door,
            "BULKHEAD_SLACK_PORT": str(port or self.port),
        }
        command = [sys.executable, "-m", "controlplane.cli", "slack", "--url", self._api_url]
        log = self._folder / f"door{next(_numbers)}.log"
        with log.open("wb") as output:
            process = Process(subprocess.Popen(command, stdout=output, stderr=output, env=environment), log)
        if port is None:
            self._processes.append(process)
        return process

    async def kill(self) -> None:
        """Kill the process that Slack knows, and start another one at once."""
        assert self.known.running.poll() is None, self.known.tail()
        self.known.kill()
        self.start()
        await self.known.ready()

    def end(self) -> None:
        """End it."""
        self.known.end()


@dataclass
class Workspace:
    """A Slack workspace with the front door of a control plane in it."""

    slack: Emulator
    relay: Relay
    passage: Passage
    door: Door
    client: Client
    front_door: dict[str, Any]

    async def until(
        self,
        holds: Callable[[], Any],
        what: str,
        *,
        seconds: float = _PATIENCE_SECONDS,
        pause_seconds: float = 0.1,
    ) -> Any:
        """Wait for something that is awaited anew again and again."""
        deadline = time.monotonic() + seconds
        while True:
            found = await holds()
            if found:
                return found
            if time.monotonic() > deadline:
                raise AssertionError(f"never seen: {what}\n{self.door.known.tail()}")
            await asyncio.sleep(pause_seconds)

    async def answers(
        self, channel: str, thread: str, *, times: int = 1, seconds: float = 60
    ) -> list[dict[str, Any]]:
        """Wait for so many messages of ours with a footer, and return all of ours in the thread."""

        async def enough() -> list[dict[str, Any]] | None:
            found = await self.slack.thread(channel, thread)
            return found if len(list(filter(footed, found))) >= times else None

        return await self.until(enough, f"{times} answers in {channel} {thread}", seconds=seconds)

    async def rules(self, **changes: Any) -> None:
        """Change what holds at the front door."""
        self.front_door["rules"] |= changes
        await self.client.post(f"/v1/front_doors/{self.front_door['id']}", {"rules": self.front_door["rules"]})

    @contextlib.asynccontextmanager
    async def ruled(self, **changes: Any) -> AsyncGenerator[None]:
        """Have something else hold at the front door for a while, whatever comes of it."""
        before = {name: self.front_door["rules"][name] for name in changes}
        await self.rules(**changes)
        try:
            yield
        finally:
            await self.rules(**before)

    async def refused(self, reason: str) -> int:
        """Return how often something was refused for this reason."""
        found = (await self.client.get(f"/v1/front_doors/{self.front_door['id']}/refusals"))["data"]
        return sum(each["count"] for each in found if each["reason"] == reason)


class Kills:
    """Kills the front door once at each of these steps, whichever conversation comes to it first.

    A step is a request to Slack (``"chat.update"``) or to the API (``"POST /v1/sessions"``) and its stage.
    """

    def __init__(self, slack: Workspace, steps: list[tuple[str, Stage]]):
        self.left = list(steps)
        self._slack = slack
        self._kills = False

    def __enter__(self) -> "Kills":
        self._slack.relay.watch = self._slack.passage.watch = self._at
        return self

    def __exit__(self, *_: object) -> None:
        self._slack.relay.watch = self._slack.passage.watch = None

    async def _at(self, asked: str, stage: Stage) -> bool:
        # What the dead one had sent is passed on, as networks do.
        if self._kills or (asked, stage) not in self.left:
            return False
        self._kills = True
        await self._slack.door.kill()
        self.left.remove((asked, stage))
        self._kills = False
        return True


def footed(message: dict[str, Any]) -> bool:
    """Say whether a message has the line that ends an answer."""
    blocks = message.get("blocks") or []
    return bool(blocks) and blocks[0]["type"] == "markdown" and blocks[-1]["type"] == "context"


@contextlib.asynccontextmanager
async def workspace(
    stack: Stack,
    folder: Path,
    mode: Mode,
    *,
    agent: dict[str, Any] | None = None,
    channels: int = 3,
    stubs: Mapping[str, Stub] | None = None,
) -> AsyncGenerator[Workspace]:
    """Run an emulated workspace and a front door for it, and take both away again."""
    await stack.ready_again()
    folder.mkdir(parents=True, exist_ok=True)
    relay = Relay("", stubs=dict(stubs or {}))
    async with contextlib.AsyncExitStack() as open_now:
        open_now.push_async_callback(relay.close)
        url = await open_now.enter_async_context(listening(relay))
        slack = await open_now.enter_async_context(
            Emulator(folder, mode=mode, request_url=f"{url}/slack/events", channels=channels)
        )
        relay.emulator_url, relay.api_url = slack.url, f"{url}/api/"
        client = await open_now.enter_async_context(Client(stack))
        front_door = await connect(client, agent, mode)
        passage = Passage(stack.url)
        open_now.push_async_callback(passage.close)
        door = Door(
            stack,
            slack_url=relay.api_url,
            api_url=await open_now.enter_async_context(listening(passage)),
            folder=folder,
            front_door=front_door["id"],
        )
        relay.door_url = f"http://127.0.0.1:{door.port}/slack/events"
        door.start()
        open_now.callback(door.end)
        await door.known.ready()
        yield Workspace(slack, relay, passage, door, client, front_door)
        await asyncio.to_thread(door.end)
        await client.delete(f"/v1/front_doors/{front_door['id']}")


async def connect(client: Client, agent: dict[str, Any] | None, mode: Mode) -> dict[str, Any]:
    """Make a front door with a vault, an agent and an environment of its own, and return it."""
    tokens = {"SLACK_BOT_TOKEN": BOT_TOKEN}
    tokens |= {"SLACK_APP_TOKEN": APP_TOKEN} if mode == "socket" else {"SLACK_SIGNING_SECRET": SIGNING_SECRET}
    vault = await client.post("/v1/vaults", {"display_name": "slack"})
    for name, value in tokens.items():
        auth = {
            "type": "environment_variable",
            "secret_name": name,
            "secret_value": value,
            "networking": {"type": "limited", "allowed_hosts": ["slack.com"]},
        }
        await client.post(f"/v1/vaults/{vault['id']}/credentials", {"auth": auth})
    made = await client.post("/v1/agents", {"name": "helper", "model": "scripted/test", "tools": [], **(agent or {})})
    environment = await client.post("/v1/environments", {"name": "e", "config": {"type": "cloud"}})
    rules = {
        "environment_id": environment["id"],
        "agent_id": made["id"],
        "session_url": "http://console.test/{session_id}",
    }
    wanted = {"name": f"slack-{vault['id']}", "vault_id": vault["id"], "rules": rules}
    return await client.post("/v1/front_doors", wanted)


def _reset(send: Send) -> None:
    """End the connection of a request without a word, as networks and dying servers do."""
    cycle: Any = send
    cycle.__self__.transport.abort()


def _arguments(request: Request, body: bytes) -> dict[str, Any]:
    given: dict[str, Any] = dict(request.query_params)
    kind = request.headers.get("content-type", "")
    if kind.startswith("application/json"):
        given |= json.loads(body or b"{}")
    elif kind.startswith("application/x-www-form-urlencoded"):
        given |= {name: values[0] for name, values in parse_qs(body.decode()).items()}
    return given
