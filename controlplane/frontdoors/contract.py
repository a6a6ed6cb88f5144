"""What a service where people talk is to us: what comes in, what goes out, and how sending may fail."""

from collections.abc import Mapping, Set
from datetime import datetime
from typing import Annotated, Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class SharedFile(_Frozen):
    """A file that came with a message; ``url``: where the service gives its content to us, '' if it did not say."""

    id: str
    name: str
    media_type: str
    size_bytes: int
    url: str


class Said(_Frozen):
    """A message. ``addressed``: to us, by a mention or in a conversation of two; otherwise the thread decides.

    ``elsewhere``: it begins with a mention of somebody else.
    """

    type: Literal["said"] = "said"
    text: str
    addressed: bool
    elsewhere: bool = False
    files: list[SharedFile] = Field(default_factory=list[SharedFile])


class Pressed(_Frozen):
    """A button, or a form that a button opened; ``value`` is what we gave the button."""

    type: Literal["pressed"] = "pressed"
    action: Literal["allow", "allow_session", "deny", "resume", "stop", "choose"]
    value: str
    reason: str | None = None


class Crossed(_Frozen):
    """A sign that whatever runs in the thread is to stop."""

    type: Literal["crossed"] = "crossed"


class Inbound(_Frozen):
    """Something that a person did. ``delivery``: the service's id of telling us, of which there may be several;
    ``message``: what the thing itself is known by in its place; places, threads and messages sort as they came.
    ``happened_at``: None, if the service does not say. ``vouched``: the service has said that the person is of our
    own team; otherwise it is asked first."""

    delivery: str
    place: str
    thread: str
    message: str
    person: str
    happened_at: datetime | None = None
    vouched: bool = False
    what: Annotated[Said | Pressed | Crossed, Field(discriminator="type")]


class Text(_Frozen):
    """Markdown. ``footer``: a line about how it came about. ``live_for``: it is being written, for this person."""

    type: Literal["text"] = "text"
    markdown: str
    footer: str | None = None
    live_for: str | None = None


class Working(_Frozen):
    """What the agent does at the moment, where it can be looked at, and a way to stop it."""

    type: Literal["working"] = "working"
    status: str
    link: str | None = None


class Card(_Frozen):
    """A call that waits for a person, or what was decided (``outcome``). ``seal``: see `seals.seal`."""

    type: Literal["card"] = "card"
    tool_use_id: str
    tool: str
    input: dict[str, Any]
    seal: str
    outcome: str | None = None


class Trouble(_Frozen):
    """A turn that failed; ``session_id``: which one to resume, if that can help."""

    type: Literal["trouble"] = "trouble"
    message: str
    session_id: str | None


class Choice(_Frozen):
    """Which agent is to answer? Names by id."""

    type: Literal["choice"] = "choice"
    agents: dict[str, str]


class Attachment(_Frozen):
    """A file: its content, or which of ours it is. ``remote``: the service's id, decided before it is shared."""

    type: Literal["attachment"] = "attachment"
    name: str
    text: str | None = None
    file_id: str | None = None
    remote: str | None = None


Body = Annotated[Text | Working | Card | Trouble | Choice | Attachment, Field(discriminator="type")]


class Post(_Frozen):
    """A message of ours; ``id`` goes with it, so that it is found again. ``streamed``: it was begun before it was
    whole, and until it is, nothing goes with it."""

    id: str
    body: Body
    remote: str | None = None
    streamed: bool = False


class LimitedError(Exception):
    """Not now: the service wants to be asked again after ``seconds``."""

    def __init__(self, seconds: float):
        super().__init__(f"limited for {seconds} s")
        self.seconds = seconds


class AmbiguousError(Exception):
    """No answer, or one that says nothing: whether it was taken must be looked up.

    ``answered``: the service works on it no more.
    """

    def __init__(self, reason: str, *, answered: bool = False):
        super().__init__(reason)
        self.answered = answered


class DeclinedError(Exception):
    """The service said no, and will again; ``reason`` is its word for it.

    ``about``: what it will not have: the message as it is, anything in that place, or a change of what stands there.
    """

    def __init__(self, reason: str, *, about: Literal["message", "place", "change"] = "message"):
        super().__init__(reason)
        self.reason = reason
        self.about = about


class NotStreamedError(Exception):
    """The service does not show a text while it is written, or not this one: it is to come when it is whole."""


class Service(Protocol):
    """A service where people talk. Every method raises one of the three errors above."""

    part_characters: int
    """The longest markdown of one message."""

    place_pause_seconds: float
    """Between two messages to one place."""

    streams: bool
    """Whether a text can be shown while it is written, as far as is known."""

    async def send(self, place: str, thread: str | None, post: Post) -> str:
        """Post a message and return its id there; ``thread`` None: it begins one.

        Raises `NotStreamedError` for a text that is still being written, if it cannot be shown so.
        """
        ...

    async def find(
        self, place: str, thread: str | None, post: Post, *, others: Set[str], since: datetime
    ) -> str | None:
        """Return the id of a message that may have been posted since then, or None; it is none of ``others``."""
        ...

    async def change(self, place: str, post: Post) -> None:
        """Replace what a message says; doing it again changes nothing. What is still being written is added to."""
        ...

    async def withdraw(self, place: str, remote: str) -> None:
        """Take a message away; one that is gone already is no error."""
        ...

    async def acknowledge(self, place: str, message: str) -> None:
        """Mark somebody's message as seen."""
        ...

    async def status(self, place: str, thread: str, text: str) -> bool:
        """Show in the thread what is being done, '' for nothing more; False if the service has no such thing."""
        ...

    async def whisper(self, place: str, thread: str | None, person: str, text: str) -> None:
        """Say something to one person only; ``thread`` None: in the place itself, for one that nobody has answered in
        yet."""
        ...

    async def is_of_team(self, person: str) -> bool:
        """Say whether somebody is of our own team; who is not known to the service is not."""
        ...

    async def names(self, people: list[str]) -> Mapping[str, str]:
        """Return what people are called."""
        ...

    async def described(self, file: SharedFile) -> SharedFile:
        """Return a file with all that is needed to fetch it, which the service may not have said with the message."""
        ...

    async def content(self, file: SharedFile) -> bytes:
        """Return a file's content."""
        ...

    async def prepare(self, attachment: Attachment, content: bytes) -> str:
        """Hand over a file's content without showing it to anybody, and return its id there."""
        ...
