"""``bulkhead demo``: one session from beginning to end, with its brain killed in the middle of a turn."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from controlplane.cli import files
from controlplane.cli.definition import read_text
from controlplane.cli.failure import Failure
from controlplane.cli.server import Server
from controlplane.cli.stream import Frame, Screen, follow

_EXAMPLES = Path(__file__).parents[2] / "examples"
_MODELS = {"ANTHROPIC_API_KEY": "claude-sonnet-4-5", "OPENAI_API_KEY": "gpt-5-mini"}
_SCRIPTED = "scripted/demo"
_QUESTION = "What went wrong on this day? The log is /workspace/access.log."
_MOUNT = "/workspace/access.log"

_START_SECONDS = 120.0
_LOOK_SECONDS = 0.1
_UNDER_WAY_SECONDS = 2.0  # by then the slow command runs, and it sleeps for six
_STOP_SECONDS = 40.0


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("demo")(demo)


def demo(
    data_dir: Annotated[Path, typer.Option("--data-dir", help="Where the demo keeps everything.")] = Path(
        ".bulkhead/demo"
    ),
    model: Annotated[str | None, typer.Option("--model", help="Instead of the one that the keys allow.")] = None,
) -> None:
    """Show a session that survives the death of its brain."""
    if not (_EXAMPLES / "access.log").exists():
        raise Failure(
            f"{_EXAMPLES} is not there",
            code="examples_missing",
            next_step="run `make demo` in a checkout of Bulkhead",
        )
    chosen = model or next((name for key, name in _MODELS.items() if os.environ.get(key)), _SCRIPTED)
    data_dir.mkdir(parents=True, exist_ok=True)
    up = _start(data_dir)
    try:
        _wait(up, data_dir)
        _Story(Server(None, data_dir, as_json=False), chosen).tell()
    finally:
        up.send_signal(signal.SIGINT)
        up.wait(_STOP_SECONDS)


def _start(data_dir: Path) -> subprocess.Popen[bytes]:
    (data_dir / "run" / "url").unlink(missing_ok=True)
    environment = {
        name: value for name, value in os.environ.items() if name not in ("BULKHEAD_API_KEY", "BULKHEAD_URL")
    }
    os.environ.pop("BULKHEAD_API_KEY", None)
    with (data_dir / "up.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "controlplane.cli", "up", "--data-dir", str(data_dir), "--port", "0"],
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,
        )


def _wait(up: subprocess.Popen[bytes], data_dir: Path) -> None:
    started = time.monotonic()
    while not (data_dir / "run" / "url").exists():
        if up.poll() is not None or time.monotonic() - started > _START_SECONDS:
            raise Failure(
                f"the control plane did not start: {(data_dir / 'up.log').read_text(errors='replace')[-500:]}",
                code="not_started",
                next_step=f"read {data_dir / 'up.log'}, and see what `bulkhead doctor` says",
            )
        time.sleep(_LOOK_SECONDS)


@dataclass
class _Seen:
    """What the stream has shown."""

    commands: dict[str, str] = field(default_factory=dict)
    results: list[str] = field(default_factory=list)
    last_result: str = ""
    stop_reason: str = ""


class _Story:
    def __init__(self, server: Server, model: str):
        self._server = server
        self._model = model
        self._output = server.output
        self._screen = Screen(server.output.console)
        self._seen = _Seen()
        self._killed: tuple[int, int] | None = None

    def tell(self) -> None:
        """Run the session and say what happened."""
        self._chapter(f"The control plane runs at {self._server.url}")
        session = self._open_session()
        self._chapter("The session, live")
        self._watch(session)
        self._check()
        self._end(session)

    def _open_session(self) -> str:
        if self._model.startswith("scripted/"):
            self._output.line(
                "No ANTHROPIC_API_KEY and no OPENAI_API_KEY: the model is scripted. It plans nothing, it plays"
            )
            self._output.line("examples/log-analyst.script.json. All the rest is real, the commands too.")
        else:
            self._output.line(f"The model is {self._model}.")
        agent = self._server.post(
            "/v1/agents", {"name": "log-analyst", "model": self._model, "system": self._prompt()}
        )
        environment = self._server.post("/v1/environments", {"name": "demo"})
        file = files.send(self._server, _EXAMPLES / "access.log")
        self._output.line(
            f"agent {agent['id']} · environment {environment['id']} · file {file['id']} ({file['size_bytes']} bytes)"
        )
        message = {"type": "user.message", "content": [{"type": "text", "text": _QUESTION}]}
        body = {
            "agent": agent["id"],
            "environment_id": environment["id"],
            "title": "What went wrong on this day?",
            "resources": [{"type": "file", "file_id": file["id"], "mount_path": _MOUNT}],
            "initial_events": [message],
        }
        return self._server.post("/v1/sessions", body)["id"]

    def _prompt(self) -> str:
        prompt = read_text(_EXAMPLES / "log-analyst.md")
        if not self._model.startswith("scripted/"):
            return prompt
        return f"{prompt}\n```script\n{read_text(_EXAMPLES / 'log-analyst.script.json')}\n```\n"

    def _watch(self, session: str) -> None:
        for frame in follow(self._server, session, after=0):
            self._screen.show(frame)
            self._note(frame)
            if frame.data["type"] == "session.status_idle":
                return

    def _note(self, frame: Frame) -> None:
        data = frame.data
        match data["type"]:
            case "agent.tool_use" if data["name"] != "sandbox_provision":
                self._seen.commands[data["id"]] = json.dumps(data["input"])
                if "sleep" in self._seen.commands[data["id"]] and self._killed is None:
                    self._kill_the_brain()
            case "agent.tool_result" if data["tool_use_id"] in self._seen.commands:
                self._seen.results.append(data["tool_use_id"])
                self._seen.last_result = "".join(block.get("text", "") for block in data.get("content") or [])
            case "session.status_idle":
                self._seen.stop_reason = data["stop_reason"]["type"]
            case _:
                pass

    def _kill_the_brain(self) -> None:
        time.sleep(_UNDER_WAY_SECONDS)
        pid = self._brain()
        os.kill(pid, signal.SIGKILL)
        self._screen.note(f"kill -9 {pid}: the brain is dead, in the middle of its turn; its command runs on")
        while (successor := self._brain()) == pid:
            time.sleep(_LOOK_SECONDS)
        self._killed = (pid, successor)
        self._screen.note(f"a new brain, process {successor}, takes the turn up where it was")

    def _brain(self) -> int:
        record: dict[str, Any] = json.loads((self._server.data_dir / "run" / "parts.json").read_text())
        return record["brain"]["pid"]

    def _check(self) -> None:
        self._chapter("What happened")
        seen = self._seen
        once = sorted(seen.results) == sorted(seen.commands)
        counted = _first_number(seen.last_result)
        ran_once = once and (counted == len(seen.commands) or not self._model.startswith("scripted/"))
        if self._killed is None:
            raise Failure(
                "the model ran no slow command, so its brain was not killed",
                code="demo_incomplete",
                next_step="try again",
            )
        if not ran_once or seen.stop_reason != "end_turn":
            raise Failure(
                f"{len(seen.commands)} commands, {len(seen.results)} results, {counted} lines in the file that counts"
                f" them, and the turn ended with {seen.stop_reason!r}",
                code="demo_failed",
                next_step=f"read {self._server.data_dir / 'up.log'} and report it, please",
            )
        old, new = self._killed
        self._output.line(
            f"· The brain, process {old}, was killed with SIGKILL while a command ran; process {new} finished."
        )
        self._output.line(
            f"· {len(seen.commands)} commands, {len(seen.results)} results, {counted} lines in the file to which each"
        )
        self._output.line("  command appends one: nothing was lost, nothing ran twice.")
        self._output.line(
            "· The brain has no shell and no key: commands ran in a sandbox without network, the model was asked"
        )
        self._output.line("  through the gateway, and every step was recorded before the next one began.")

    def _end(self, session: str) -> None:
        self._server.post(f"/v1/sessions/{session}/archive")
        self._chapter("Where to go next")
        data = self._server.data_dir
        self._output.line(f"· .venv/bin/bulkhead up --data-dir {data}   starts it again, with everything in it; then")
        self._output.line(f"  .venv/bin/bulkhead sessions events {session} --data-dir {data}   shows this session.")
        self._output.line(
            "· .venv/bin/bulkhead up   starts a fresh one; README.md is a tour, ARCHITECTURE.md says why."
        )

    def _chapter(self, title: str) -> None:
        self._output.line("")
        self._output.line(title, style="bold")


def _first_number(text: str) -> int | None:
    words = [word for word in text.split() if word.isdigit()]
    return int(words[0]) if words else None
