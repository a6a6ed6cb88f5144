"""What Slack tells us, as the contract has it; None: it is not for us."""

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal, cast

from controlplane.frontdoors.contract import Crossed, Inbound, Pressed, Said, SharedFile

Json = Mapping[str, Any]

STOPS = frozenset({"x", "octagonal_sign", "black_square_for_stop"})
_SUBTYPES = frozenset({None, "file_share", "thread_broadcast"})
_MENTION = re.compile(r"<@([A-Z0-9]+)(?:\|[^<>]*)?>")
_LINK = re.compile(r"<((?:https?|mailto):[^|<>]+)(?:\|([^<>]*))?>")

_ACTIONS: Mapping[str, Literal["allow", "allow_session", "deny", "resume", "stop", "choose"]] = {
    "allow": "allow", "allow_session": "allow_session", "deny": "deny", "resume": "resume", "stop": "stop",
    "choose": "choose",
}  # fmt: skip


def said(envelope: Json, event: Json, *, bot_user: str) -> Inbound | None:
    """Return a message, whether it came as ``message`` or as ``app_mention``."""
    if event.get("subtype") not in _SUBTYPES or event.get("bot_id") or event.get("user") in (None, bot_user):
        return None
    text = str(event.get("text") or "")
    mentioned = _MENTION.findall(text)
    in_two = event.get("channel_type") == "im" or str(event["channel"]).startswith("D")
    first = _MENTION.match(text.lstrip())
    what = Said(
        text=plain(text, bot_user),
        addressed=in_two or bot_user in mentioned,
        elsewhere=first is not None and bot_user not in mentioned and not in_two,
        files=[described(each) for each in cast("list[Json]", event.get("files") or [])],
    )
    return Inbound(
        delivery=str(envelope["event_id"]),
        place=str(event["channel"]),
        thread=str(event.get("thread_ts") or event["ts"]),
        message=str(event["ts"]),
        happened_at=_moment(event["ts"]),
        person=str(event["user"]),
        vouched=team_of_person(envelope) is not None,
        what=what,
    )


def crossed(envelope: Json, event: Json, *, thread: str) -> Inbound:
    """Return a reaction that means stop; ``thread``: where the message is that it was put on."""
    item = event["item"]
    return Inbound(
        delivery=str(envelope["event_id"]),
        place=str(item["channel"]),
        thread=thread,
        message=f"{event['event_ts']}:{event['user']}:x",
        happened_at=_moment(event["event_ts"]),
        person=str(event["user"]),
        vouched=team_of_person(envelope) is not None,
        what=Crossed(),
    )


def commanded(command: Json, *, thread: str) -> Inbound:
    """Return a slash command as the same word that is said in a thread."""
    known_by = f"command:{command['trigger_id']}"
    return Inbound(
        delivery=known_by,
        place=str(command["channel_id"]),
        thread=thread,
        message=known_by,
        person=str(command["user_id"]),
        vouched=True,  # whoever is of another team gives commands to that team's apps
        what=Said(text=str(command.get("text") or ""), addressed=False),
    )


def pressed(body: Json, action: Json) -> Inbound | None:
    """Return a press of one of our buttons."""
    name = str(action["action_id"]).partition(":")[2].partition(":")[0]
    if name not in _ACTIONS:
        return None
    message = body.get("message") or {}
    place, person = str(body["channel"]["id"]), str(body["user"]["id"])
    known_by = f"{action['action_ts']}:{person}:{name}"
    return Inbound(
        delivery=f"press:{place}:{known_by}",
        place=place,
        thread=str(message.get("thread_ts") or message.get("ts")),
        message=known_by,
        happened_at=_moment(action["action_ts"]),
        person=person,
        vouched=team_of_person(body) is not None,
        what=Pressed(action=_ACTIONS[name], value=str(action.get("value") or "")),
    )


def denied(body: Json) -> Inbound | None:
    """Return what the form for a reason says; None: it is none of ours."""
    view = body["view"]
    try:
        value, place, thread = map(str, json.loads(view["private_metadata"]))
        reason = view["state"]["values"]["reason"]["reason"].get("value")
    except (ValueError, TypeError, LookupError):
        return None
    return Inbound(
        delivery=f"view:{view['id']}",
        place=place,
        thread=thread,
        message=f"view:{view['id']}",
        person=str(body["user"]["id"]),
        vouched=team_of_person(body) is not None,
        what=Pressed(action="deny", value=value, reason=reason),
    )


def team_of_person(body: Json) -> str | None:
    """Return whose person did it; None: Slack does not say, as with reactions."""
    event = body.get("event") or {}
    user = body.get("user")
    of_user = cast("Json", user).get("team_id") if isinstance(user, Mapping) else None
    return event.get("user_team") or event.get("team") or of_user or None


def storable(value: Any) -> Any:
    """Return what Slack sent without what is no text: characters that Postgres does not take."""
    match value:
        case str():
            return value.replace("\0", "").encode("utf-8", "replace").decode()
        case dict():
            return {storable(name): storable(each) for name, each in cast("dict[Any, Any]", value).items()}
        case list():
            return [storable(each) for each in cast("list[Any]", value)]
        case _:
            return value


def plain(text: str, bot_user: str) -> str:
    """Return the text as it was typed, without the mention of us."""
    without = re.sub(rf"<@{re.escape(bot_user)}(?:\|[^<>]*)?>[ \t]*", "", text)
    linked = _LINK.sub(lambda found: found[1].removeprefix("mailto:"), without)
    return linked.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&").strip()


def described(given: Json) -> SharedFile:
    """Return a file; of one that another workspace keeps, an event says neither its name nor its address."""
    return SharedFile(
        id=str(given["id"]),
        name=str(given.get("name") or given["id"]),
        media_type=str(given.get("mimetype") or "application/octet-stream"),
        size_bytes=int(given.get("size") or 0),
        url=str(given.get("url_private_download") or given.get("url_private") or ""),
    )


def _moment(ts: Any) -> datetime | None:
    try:
        return datetime.fromtimestamp(float(ts), UTC)
    except (ValueError, TypeError, OverflowError, OSError):
        return None
