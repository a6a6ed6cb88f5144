"""A session's events as they come, and how a terminal shows them."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
from rich.console import Console
from rich.markup import escape

from controlplane.cli.server import Server, check
from controlplane.frames import Frames

_READ_TIMEOUT_SECONDS = 30.0  # the server sends at least a comment every 15 s
_RECONNECT_SECONDS = 0.3
_RESULT_LINES = 8
_RESULT_COLUMNS = 160

Event = dict[str, Any]


@dataclass(frozen=True)
class Frame:
    """A recorded event with its seq, or a preview without one."""

    seq: int | None
    data: Event


def follow(server: Server, session_id: str, *, after: int) -> Iterator[Frame]:
    """Yield everything after ``after``, without end; a connection that breaks is taken up where it broke."""
    timeout = httpx.Timeout(10.0, read=_READ_TIMEOUT_SECONDS)
    while True:
        try:
            with server.client.stream(
                "GET",
                f"/v1/sessions/{session_id}/events/stream",
                params={"event_deltas": "agent.message"},
                headers={"Last-Event-ID": str(after)},
                timeout=timeout,
            ) as response:
                if not response.is_success:
                    response.read()
                if response.status_code < httpx.codes.INTERNAL_SERVER_ERROR:
                    check(response)
                    for frame in _frames(response):
                        after = frame.seq or after
                        yield frame
                        if frame.data["type"] == "session.deleted":
                            return
        except httpx.TransportError:
            pass
        time.sleep(_RECONNECT_SECONDS)


def _frames(response: httpx.Response) -> Iterator[Frame]:
    frames = Frames()
    for chunk in response.iter_bytes():
        for fields in frames.feed(chunk):
            if "data" in fields:
                yield Frame(int(fields["id"]) if "id" in fields else None, json.loads(fields["data"]))


class Screen:
    """Shows frames: an answer's text as it streams, tool calls and their output in a few lines."""

    def __init__(self, console: Console):
        self._console = console
        self.own_messages = True
        self._shown: dict[str, str] = {}
        self._open = ""

    def show(self, frame: Frame) -> None:
        """Show a frame."""
        data = frame.data
        if data["type"] == "event_delta":
            self._text(data["event_id"], data["delta"]["content"].get("text", ""))
        elif data["type"] == "agent.message":
            self._message(data)
        elif data["type"] != "event_start":
            self._event(data)

    def note(self, text: str) -> None:
        """Show a remark of ours between the events."""
        self._line(f"[yellow]{escape(text)}[/yellow]")

    def _text(self, event_id: str, piece: str) -> None:
        if self._open != event_id:
            self._close()
            self._open = event_id
        self._shown[event_id] = self._shown.get(event_id, "") + piece
        self._console.print(piece, end="", markup=False)

    def _message(self, event: Event) -> None:
        whole = _plain(event["content"])
        shown = self._shown.pop(event["id"], "")
        if not whole.startswith(shown):
            self._close()
            shown = ""
        self._text(event["id"], whole.removeprefix(shown))
        self._close()
        self._shown.clear()

    def _event(self, event: Event) -> None:
        match event["type"]:
            case "user.message" if self.own_messages:
                self._line(f"[bold cyan]> {escape(_plain(event['content']))}[/bold cyan]")
            case "agent.tool_use":
                self._line(f"[magenta]⚙ {escape(_call(event))}[/magenta]")
            case "agent.tool_result":
                style = "red" if event.get("is_error") else "dim"
                for line in _shortened(_plain(event.get("content") or [])):
                    self._line(f"[{style}]  {escape(line)}[/{style}]")
            case "session.error":
                error = event["error"]
                retry = error.get("retry_status", {}).get("type", "")
                self._line(f"[red]error: {escape(str(error.get('message', '')))} ({retry})[/red]")
            case "session.status_rescheduled":
                self._line("[yellow]the turn was interrupted by a failure and goes on[/yellow]")
            case "session.status_idle" if event["stop_reason"]["type"] == "requires_action":
                for use_id in event["stop_reason"]["event_ids"]:
                    self._line(f"[yellow]waits for a decision: bulkhead approvals allow {escape(use_id)}[/yellow]")
            case "session.status_idle" if event["stop_reason"]["type"] != "end_turn":
                self._line(f"[yellow]idle: {event['stop_reason']['type']}[/yellow]")
            case "session.status_terminated" | "session.deleted" | "user.interrupt":
                self._line(f"[yellow]{event['type']}[/yellow]")
            case _:
                pass

    def _line(self, markup: str) -> None:
        self._close()
        self._console.print(markup)

    def _close(self) -> None:
        if self._open:
            self._console.print()
            self._open = ""


def _plain(content: list[Event]) -> str:
    return "".join(block["text"] if block["type"] == "text" else f"[{block['type']}]" for block in content)


def _call(event: Event) -> str:
    given = event["input"]
    main = given.get("command") or given.get("task_description") or given.get("file_path") or json.dumps(given)
    return f"{event['name']}: {main}"


def _shortened(text: str) -> list[str]:
    lines = [_cut(line) for line in text.rstrip("\n").splitlines()] or ["(no output)"]
    if len(lines) <= _RESULT_LINES:
        return lines
    return [*lines[: _RESULT_LINES - 1], f"… {len(lines) - _RESULT_LINES + 1} more lines"]


def _cut(line: str) -> str:
    return line if len(line) <= _RESULT_COLUMNS else line[: _RESULT_COLUMNS - 1] + "…"
