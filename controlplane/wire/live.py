"""What is alive, on the wire."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from controlplane.store.live import KINDS, Kind
from controlplane.wire.common import Answer, Reference, Request


class LiveItem(Answer):
    """Something that is alive. Its id is the turn's, the tool use's, the sandbox's or the exchange's."""

    kind: Kind
    id: str
    session_id: str
    agent_id: str
    environment_id: str
    host: str | None = Field(description="Where it runs.")
    what: str
    since: datetime


class LiveList(Answer):
    """What is alive, the longest alive first; ``has_more``: the limit left some out."""

    data: list[LiveItem]
    has_more: bool


class LiveStop(Request):
    """What to stop: all that is alive in the workspace, narrowed by the fields that are given."""

    kinds: Annotated[list[Kind], Field(min_length=1)] = Field(
        default=list(KINDS),
        description="A `sandbox` ends with its background commands and streams. A `stream` without its sandbox ends"
        " by revoking the session's egress, which stays revoked.",
    )
    session_id: Reference = Field(default="", description="Omit it, or the next two, to narrow nothing.")
    agent_id: Reference = ""
    environment_id: Reference = ""
    wait_seconds: Annotated[float, Field(ge=0, le=30)] = Field(
        default=5.0, description="How long to wait for the proof that everything has ended."
    )


class StoppedItem(LiveItem):
    """Something that was to end. ``ended_after_ms``: when that was proven, counted from the order."""

    ended_after_ms: int | None


class LiveStopped(Answer):
    """What was stopped. ``proven``: how many have ended for certain; of the others nobody has heard yet."""

    type: Literal["live_stopped"] = "live_stopped"
    proven: int
    unproven: int
    data: list[StoppedItem]
    has_more: bool
