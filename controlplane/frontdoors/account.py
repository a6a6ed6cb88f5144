"""What a session's events come to in its thread: pure, and the same each time that the same events are read."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

from controlplane.frontdoors.contract import Attachment, Card, Text, Trouble

_LEFT_OUT = {
    "later": "no room left; it comes at the end of the next turn",
    "too_large": "larger than 20 MB",
    "unreadable": "it could not be read",
    "too_many_entries": "more than 1000 files, of which the first are looked at",
}
ENDS = ("session.status_idle", "session.status_terminated")
"""Events with which a turn ends, whatever they say."""

_OF_A_TURN = ("agent.", "span.", "session.status_r")


@dataclass(frozen=True)
class Stand:
    """A message is to stand in the thread, under this name."""

    name: str
    body: Text | Card | Trouble | Attachment


@dataclass(frozen=True)
class Decided:
    """Somebody decided about a call, wherever it was."""

    tool_use_id: str
    outcome: str


@dataclass(frozen=True)
class Doing:
    """What the agent does now."""

    status: str


@dataclass(frozen=True)
class Rest:
    """The turn has ended; ``waits_for``: calls that somebody has to decide about."""

    waits_for: tuple[str, ...]


@dataclass(frozen=True)
class Lost:
    """The model is asked anew: what it was saying is said no more."""


Note = Stand | Decided | Doing | Lost | Rest


@dataclass
class Account:
    """Reads the events of a session from a rest on.

    ``model``: which one is asked, unless another stands in; ``link``: where the session can be looked at.
    ``heading``: nothing is said before the first rest, and then what it came to under this heading.
    """

    session_id: str
    model: str
    link: str
    heading: str | None = None
    rests: bool = True
    _said: tuple[str, str, bool] | None = None
    _calls: dict[str, Mapping[str, Any]] = field(default_factory=dict[str, Mapping[str, Any]])
    _models: list[str] = field(default_factory=list[str])
    _cost: Decimal | None = Decimal(0)
    _began: datetime | None = None
    _error: Mapping[str, Any] | None = None

    def read(self, event: Mapping[str, Any]) -> list[Note]:
        """Return what an event changes in the thread, in order."""
        if event["type"].startswith(_OF_A_TURN):
            self.rests = False
        reader = self._readers().get(event["type"])
        notes = reader(event) if reader is not None else []
        if self.heading is None:
            return notes
        if not any(isinstance(note, Rest) for note in notes):
            return [note for note in notes if not isinstance(note, Stand)]
        heading, self.heading = self.heading, None
        return _headed(heading, notes, self._footer(event))

    def _readers(self) -> Mapping[str, Callable[[Mapping[str, Any]], list[Note]]]:
        return {
            "session.status_running": self._ran,
            "session.status_rescheduled": lambda _: [Doing("going on after an interruption")],
            "session.status_idle": self._rest,
            "session.status_terminated": lambda event: [*self._flush(self._footer(event)), Rest(())],
            "session.error": self._failed,
            "span.model_request_end": self._booked,
            "agent.message": self._spoke,
            "agent.tool_use": self._called,
            "agent.tool_result": lambda _: [Doing("thinking")],
            "user.tool_confirmation": lambda event: [Decided(event["tool_use_id"], _outcome(event))],
        }

    def _ran(self, event: Mapping[str, Any]) -> list[Note]:
        self._began = self._began or _moment(event)
        return [Doing("thinking")]

    def _failed(self, event: Mapping[str, Any]) -> list[Note]:
        self._error = event["error"]
        return []

    def _spoke(self, event: Mapping[str, Any]) -> list[Note]:
        before = self._flush()
        self._said = (event["id"], _text(event), bool(event.get("interrupted")))
        return before

    def _called(self, event: Mapping[str, Any]) -> list[Note]:
        self._calls[event["id"]] = event
        return [*self._flush(), Doing(doing(event["name"], event["input"]))]

    def _booked(self, event: Mapping[str, Any]) -> list[Note]:
        model, cost = event.get("model"), event.get("cost_usd")
        if model and model not in self._models:
            self._models.append(model)
        if event.get("is_error"):
            return [Lost()]
        self._cost = self._cost + Decimal(cost) if cost is not None and self._cost is not None else None
        return []

    def _rest(self, event: Mapping[str, Any]) -> list[Note]:
        reason = event["stop_reason"]
        notes = self._flush(self._footer(event))
        waits_for = tuple(reason.get("event_ids", ())) if reason["type"] == "requires_action" else ()
        for use_id in waits_for:
            if use_id in self._calls:
                call = self._calls[use_id]
                notes.append(
                    Stand(f"card:{use_id}", Card(tool_use_id=use_id, tool=call["name"], input=call["input"], seal=""))
                )
        if reason["type"] in ("retries_exhausted", "budget_reached"):
            notes.append(Stand(f"trouble:{event['id']}", self._trouble(reason["type"])))
        elif not waits_for:
            notes += self._remark(event, is_silent=not notes)
        notes += _outputs(event)
        self.rest()
        return [*notes, Rest(waits_for)]

    def rest(self) -> None:
        """Begin anew with what comes."""
        self._said, self._models, self._cost, self._began, self._error = None, [], Decimal(0), None, None
        self.rests = True

    def _remark(self, event: Mapping[str, Any], *, is_silent: bool) -> list[Note]:
        """Return what is to be known of a turn that came to its end: why it has no more to say, or that it has not.

        One that somebody stopped, and a rest that no turn has come to, need no word.
        """
        error = self._error or {}
        if error and (error.get("retry_status") or {}).get("type") != "retrying":
            said = f":warning: {error.get('message') or 'the turn failed'}"
        elif is_silent and not event.get("interrupted") and not self.rests:
            said = "_(nothing more was said)_"
        else:
            return []
        footer = self._footer(event) if is_silent else None
        return [Stand(f"remark:{event['id']}", Text(markdown=said, footer=footer))]

    def _trouble(self, reason: str) -> Trouble:
        error = self._error or {}
        said = error.get("message") or ("the budget is spent" if reason == "budget_reached" else "the turn failed")
        next_step = error.get("next_step")
        return Trouble(message=f"{said}\n{next_step}" if next_step else said, session_id=self.session_id)

    def _flush(self, footer: str | None = None) -> list[Note]:
        if self._said is None:
            return []
        event_id, text, interrupted = self._said
        self._said = None
        said = text + ("\n\n_(stopped here)_" if interrupted else "")
        return [Stand(f"answer:{event_id}", Text(markdown=said, footer=footer))] if said.strip() else []

    def _footer(self, event: Mapping[str, Any]) -> str:
        ended = _moment(event)
        parts = [", ".join(self._models) or self.model]
        if self._cost is not None:
            parts.append(f"${self._cost.quantize(Decimal('0.0001')).normalize():f}")
        if self._began and ended:
            parts.append(_duration((ended - self._began).total_seconds()))
        return " · ".join([*parts, self.link])


def _headed(heading: str, notes: list[Note], footer: str) -> list[Note]:
    """Return notes whose first message says what it is about."""
    first = next((note for note in notes if isinstance(note, Stand)), None)
    match first.body if first is not None else None:
        case Text() as text:
            headed = text.model_copy(update={"markdown": f"**{heading}**\n\n{text.markdown}"})
        case Trouble() as trouble:
            headed = trouble.model_copy(update={"message": f"{heading}: {trouble.message}"})
        case None:
            return [Stand("heading", Text(markdown=f"**{heading}**: it has nothing to say.", footer=footer)), *notes]
        case _:
            return [Stand("heading", Text(markdown=f"**{heading}**")), *notes]
    return [Stand(note.name, headed) if isinstance(note, Stand) and note is first else note for note in notes]


def _outputs(event: Mapping[str, Any]) -> list[Note]:
    """Return the files that a turn has left, and in words what of it is not among them."""
    outputs = event.get("outputs") or {}
    notes: list[Note] = [
        Stand(f"file:{file['file_id']}", Attachment(name=file["path"].rpartition("/")[2], file_id=file["file_id"]))
        for file in outputs.get("files", [])
    ]
    left = outputs.get("left_out", [])
    lines = [f"• `{each['path'].replace('`', chr(39))}`: {_LEFT_OUT[each['reason']]}" for each in left]
    if (more := outputs.get("left_out_count", 0) - len(left)) > 0:
        lines.append(f"• {more} more")
    if problem := outputs.get("problem"):
        lines.append(f"• {problem}")
    if lines:
        said = "\n".join([":paperclip: Files that are not here:", *lines])
        notes.append(Stand(f"left:{event['id']}", Text(markdown=said)))
    return notes


def doing(tool: str, given: Mapping[str, Any]) -> str:
    """Return a call as a status has it, not cut: a part of a secret would not be known for one."""
    command = given.get("command") or given.get("file_path") or given.get("path") or given.get("pattern")
    if not isinstance(command, str) or not command.strip():
        return f"using {tool}"
    first = command.strip().splitlines()[0].replace("`", "'")
    return f"running `{first}`" if "command" in given else f"{tool} `{first}`"


def _outcome(event: Mapping[str, Any]) -> str:
    by = str(event.get("decided_by", ""))
    who = by.partition(" for ")[2] or ("nobody in time" if by == "expiry" else "somebody elsewhere")
    if event["result"] == "allow":
        return f"allowed{' for this session' if event.get('remember') else ''} by {who}"
    reason = event.get("deny_message")
    return f"denied by {who}" + (f": {reason}" if reason else "")


def _text(event: Mapping[str, Any]) -> str:
    return "".join(block.get("text", "") for block in event["content"])


def _moment(event: Mapping[str, Any]) -> datetime | None:
    at = event.get("processed_at")
    return datetime.fromisoformat(at) if at else None


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s"
