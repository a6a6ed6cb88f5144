"""Front doors on the wire."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from controlplane.frontdoors.policy import Rules
from controlplane.wire.common import Answer, Reference, Request


class FrontDoorCreate(Request):
    """A new front door. Its vault has `SLACK_BOT_TOKEN`, and `SLACK_SIGNING_SECRET` or `SLACK_APP_TOKEN`."""

    kind: Literal["slack"] = "slack"
    name: Annotated[str, Field(min_length=1, max_length=128)]
    vault_id: Reference
    rules: Rules


class FrontDoorUpdate(Request):
    """What holds there from now on, in whole."""

    rules: Rules


class FrontDoor(Answer):
    """A front door. ``team`` and ``app``: whose the tokens are, once they have been used."""

    type: Literal["front_door"] = "front_door"
    id: str
    kind: Literal["slack"]
    name: str
    vault_id: str
    rules: Rules
    team: str | None
    app: str | None
    created_at: datetime
    updated_at: datetime


class FrontDoorDeleted(Answer):
    """The front door is gone; its sessions stay."""

    type: Literal["front_door_deleted"] = "front_door_deleted"
    id: str


class RefusalRecord(Answer):
    """What was refused to somebody, and how often within the hour."""

    type: Literal["front_door_refusal"] = "front_door_refusal"
    reason: str
    place: str
    person: str
    hour: datetime
    count: int
    last_at: datetime
