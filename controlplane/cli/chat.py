"""``bulkhead chat``: a session in the terminal."""

import os
import signal
import sys
import threading
from types import FrameType
from typing import Annotated

import typer

from controlplane.cli.definition import resolve
from controlplane.cli.failure import Failure
from controlplane.cli.server import Server, connected
from controlplane.cli.stream import Frame, Screen, follow

_ENVIRONMENT_NAME = "default"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("chat")(connected(chat))


def chat(
    server: Server,
    agent: Annotated[str | None, typer.Argument(help="Id or name.")] = None,
    environment: Annotated[str | None, typer.Option("--environment", help="Id or name; one is made if none.")] = None,
    title: Annotated[str | None, typer.Option("--title")] = None,
    session: Annotated[str | None, typer.Option("--session", help="Go on with this session.")] = None,
) -> None:
    """Talk with an agent: Ctrl-C interrupts its turn, a second one leaves; the session stays."""
    if (session is None) == (agent is None):
        raise Failure("name an agent for a new session, or --session to go on with one", code="bad_usage")
    if session is None and agent is not None:
        agent_id = resolve(server, "agents", agent)
        environment_id = resolve(server, "environments", environment) if environment else some_environment(server)
        fields = {"agent": agent_id, "environment_id": environment_id} | ({"title": title} if title else {})
        session = server.post("/v1/sessions", fields)["id"]
    converse(server, str(session))


def converse(server: Server, session: str) -> None:
    """Show the session and pass on what is typed, until the end of input or Ctrl-C."""
    if server.as_json:
        raise Failure(
            "a conversation has no JSON form", code="bad_usage", next_step="use `bulkhead sessions send --json`"
        )
    conversation = _Conversation(server, session, after=0)
    found = server.get(f"/v1/sessions/{session}")
    conversation.screen.note(f"{session} · {found['agent']['name']} · Ctrl-C interrupts, Ctrl-D leaves")
    if found["status"] == "running":
        conversation.watch(beyond=found["last_seq"])
    else:
        conversation.catch_up(found["last_seq"])
    while (text := _typed()) is not None:
        if text.strip():
            conversation.say(text)
    conversation.screen.note(f"the session stays; go on with: bulkhead chat --session {session}")


def until_idle(server: Server, session: str, *, after: int, message_id: str | None = None) -> None:
    """Show the stream until the session rests, after having taken the message if one is named."""
    conversation = _Conversation(server, session, after=after)
    conversation.waiting_for = message_id
    conversation.watch()


_LOOK_BACK = 1000
"""How many messages may be sent after one that is waited for, and taken before it is looked for."""

_ENDS = ("session.status_idle", "session.status_terminated", "session.deleted")


class _Conversation:
    def __init__(self, server: Server, session: str, *, after: int):
        self._server = server
        self._session = session
        self._after = after
        self._interrupted = False
        self._beyond = 0
        self.waiting_for: str | None = None
        self.screen = Screen(server.output.console)

    def catch_up(self, last: int) -> None:
        """Show what is recorded up to seq ``last``."""
        if last <= self._after:
            return
        for frame in follow(self._server, self._session, after=self._after):
            self._show(frame)
            if self._after >= last:
                return

    def say(self, text: str) -> None:
        """Send a message and show the stream until the session rests."""
        event = {"type": "user.message", "content": [{"type": "text", "text": text}]}
        sent = self._server.post(f"/v1/sessions/{self._session}/events", {"events": [event]})
        self.waiting_for = sent["data"][0]["id"]
        self.screen.own_messages = False
        self.watch()

    def watch(self, *, beyond: int = 0) -> None:
        """Show the stream until the session rests (after the seq ``beyond``).

        Ctrl-C interrupts the turn, a second one leaves.
        """
        self._interrupted, self._beyond = False, beyond
        before = signal.signal(signal.SIGINT, self._on_ctrl_c)
        try:
            self._until_rest()
        finally:
            signal.signal(signal.SIGINT, before)

    def _on_ctrl_c(self, _number: int, _frame: FrameType | None) -> None:
        # Not a KeyboardInterrupt, which is lost where it meets a destructor; in a thread, for this one may be in the
        # middle of a request, or of writing to the terminal, which must not be entered twice.
        threading.Thread(target=self._leave if self._interrupted else self._interrupt, daemon=True).start()
        self._interrupted = True

    def _leave(self) -> None:
        self.screen.note(f"left; the turn goes on: bulkhead chat --session {self._session}")
        os._exit(1)

    def _interrupt(self) -> None:
        self.screen.note("interrupting; Ctrl-C again leaves")
        try:
            self._server.post(f"/v1/sessions/{self._session}/events", {"events": [{"type": "user.interrupt"}]})
        except Failure as failure:
            self.screen.note(f"the interrupt was not accepted: {failure.message}")

    def _until_rest(self) -> None:
        for frame in follow(self._server, self._session, after=self._after):
            self._show(frame)
            if self._rests(frame):
                return

    def _show(self, frame: Frame) -> None:
        self._after = frame.seq or self._after
        if self._server.as_json and frame.seq is not None:
            self._server.output.json_line({"seq": frame.seq, **frame.data})
        elif not self._server.as_json:
            self.screen.show(frame)

    def _rests(self, frame: Frame) -> bool:
        if frame.data["type"] not in _ENDS or self._after <= self._beyond:
            return False
        if self.waiting_for is None or frame.data["type"] != "session.status_idle":
            return True
        # The message may still wait: behind the turn that has ended here, or for a decision that nobody has taken.
        return frame.data["stop_reason"]["type"] == "requires_action" or self._taken_by(frame.data["processed_at"])

    def _taken_by(self, moment: str) -> bool:
        path = f"/v1/sessions/{self._session}/events"
        narrowed = {"types": "user.message", "order": "desc", "created_at[lte]": moment}
        taken = self._server.listing(path, limit=_LOOK_BACK, **narrowed)
        return any(event["id"] == self.waiting_for for event in taken)


def _typed() -> str | None:
    if sys.stdin.isatty():
        sys.stdout.write("\n\x1b[1;36m>\x1b[0m " if sys.stdout.isatty() else "> ")
        sys.stdout.flush()
    try:
        line = sys.stdin.readline()
    except KeyboardInterrupt:
        return None
    return line.rstrip("\n") if line else None


def some_environment(server: Server) -> str:
    """Return the environment that is meant where none is named, making it if there is none."""
    for each in server.listing("/v1/environments", limit=1000):
        if each["name"] == _ENVIRONMENT_NAME:
            return each["id"]
    return server.post("/v1/environments", {"name": _ENVIRONMENT_NAME})["id"]
