"""How our messages look in Slack."""

import json
import re
import unicodedata
from collections.abc import Mapping
from typing import Any

from controlplane.frontdoors.contract import Attachment, Body, Card, Choice, Post, Text, Trouble, Working
from controlplane.frontdoors.leaving import disarm

Json = dict[str, Any]

MARKER = "bulkhead_post"
"""The type of our messages' metadata; their payload has our id."""

_SECTION_CHARACTERS = 2_900  # Slack takes 3,000, counted as they are sent
_WINDOW_CHARACTERS = 200_000  # Slack takes a hundred blocks, and some 250,000 characters of a window as it is sent
_PREVIEW_CHARACTERS = 200
_BUTTONS = 5
_SHOWN_AGENTS = 20

_UNSEEN = frozenset({"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp", "Zs"})
"""Categories of characters that show nothing, or another order of what is around them."""

_PARTIAL = re.compile(r"&[a-z]*$")
_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})


def escaped(text: str) -> str:
    """Return text that means nothing to Slack but itself."""
    return text.translate(_ESCAPES)


def _fitted(text: str) -> str:
    """Return text that means nothing to Slack but itself, as much of it as has room in a block."""
    whole = escaped(text)
    if len(whole) <= _SECTION_CHARACTERS:
        return whole
    return _PARTIAL.sub("", whole[:_SECTION_CHARACTERS]) + "…"


def message(post: Post) -> Json:
    """Return what a message says, with our id in its metadata, and in its first block that keeps one.

    A block of markdown keeps none: "block_id is ignored in markdown blocks" (docs.slack.dev, markdown block).
    """
    shown = blocks(post.body)
    keeps = next((block for block in shown if block["type"] != "markdown"), None)
    if keeps is not None:
        keeps["block_id"] = post.id
    return {
        "text": _preview(post.body),
        "blocks": shown,
        "metadata": {"event_type": MARKER, "event_payload": {"id": post.id}},
        "unfurl_links": False,
        "unfurl_media": False,
    }


def is_ours(found: Mapping[str, Any], post: Post) -> bool:
    """Say whether a message of a channel is this one."""
    marked = (found.get("metadata") or {}).get("event_payload") or {}
    if marked.get("id") == post.id or any(block.get("block_id") == post.id for block in found.get("blocks") or []):
        return True
    remote = post.body.remote if isinstance(post.body, Attachment) else None
    return remote is not None and any(file.get("id") == remote for file in found.get("files") or [])


def blocks(body: Body) -> list[Json]:
    """Return a message's blocks."""
    match body:
        case Text():
            footer = [_context(_fitted(body.footer))] if body.footer else []
            return [{"type": "markdown", "text": body.markdown}, *footer]
        case Working():
            said = f":hourglass_flowing_sand: {_fitted(body.status)} …"
            link = [_context(_fitted(body.link))] if body.link else []
            return [_section(said), *link, {"type": "actions", "elements": [_button("Stop", "stop", "stop")]}]
        case Card():
            return _card(body)
        case Trouble():
            said = f":x: *The turn failed.* {_fitted(body.message)}"
            resume = _button("Resume", "resume", body.session_id) if body.session_id else None
            return [_section(said), *([{"type": "actions", "elements": [resume]}] if resume else [])]
        case Choice():
            return _choice(body)
        case Attachment():
            return []


def arguments(card: Card) -> str:
    """Return a call's exact arguments as people read them; what cannot be seen, or turns letters around, as a number.

    What calls people is written so that it does not, and still is the same JSON.
    """
    shown = json.dumps(card.input, indent=2, ensure_ascii=False).replace("<!", "\\u003c!")
    return "".join(_visible(character) for character in shown)


def _visible(character: str) -> str:
    if character in " \n" or unicodedata.category(character) not in _UNSEEN:
        return character
    return json.dumps(character)[1:-1] if character > "\x7f" else f"\\u{ord(character):04x}"


def reason_form(value: str, place: str, thread: str) -> Json:
    """Return the form that asks why a call is denied."""
    return {
        "type": "modal",
        "callback_id": "deny",
        "private_metadata": json.dumps([value, place, thread]),
        "title": {"type": "plain_text", "text": "Deny the call"},
        "submit": {"type": "plain_text", "text": "Deny"},
        "close": {"type": "plain_text", "text": "Cancel"},
        "blocks": [
            {
                "type": "input",
                "block_id": "reason",
                "optional": True,
                "label": {"type": "plain_text", "text": "Why? The agent is told."},
                "element": {
                    "type": "plain_text_input", "action_id": "reason", "multiline": True, "max_length": 3000,
                },
            }
        ],
    }  # fmt: skip


def arguments_view(shown: str) -> Json:
    """Return a window with long arguments."""
    begin, rest = shown[:_WINDOW_CHARACTERS], len(shown) - _WINDOW_CHARACTERS
    pieces = [begin[at : at + _SECTION_CHARACTERS] for at in range(0, len(begin), _SECTION_CHARACTERS)]
    more = [_context(f"*{rest} more characters are not shown*: see `bulkhead approvals list`.")] if rest > 0 else []
    return {
        "type": "modal",
        "title": {"type": "plain_text", "text": "Exact arguments"},
        "close": {"type": "plain_text", "text": "Close"},
        "blocks": [*more, *(_code(piece) for piece in pieces)],
    }


def _card(card: Card) -> list[Json]:
    shown = arguments(card)
    head = _section(f":raised_hand: *Approval needed:* `{escaped(card.tool)}`")
    if len(shown) > _SECTION_CHARACTERS:
        body = [_code(shown[:600] + "\n…")]
        whole = [_button("Show all", "arguments", card.tool_use_id)]
    else:
        body, whole = [_code(shown)], list[Json]()
    if card.outcome is not None:
        return [head, *body, _context(_fitted(card.outcome))]
    value = f"{card.tool_use_id}:{card.seal}"
    buttons = [
        _button("Allow", "allow", value, style="primary"),
        _button("Allow for this session", "allow_session", value),
        _button("Deny", "deny", value, style="danger"),
        _button("Deny with a reason", "deny_reason", value),
        *whole,
    ]
    return [head, *body, {"type": "actions", "elements": buttons}]


def _choice(choice: Choice) -> list[Json]:
    buttons = [
        _button(name[:75], f"choose:{n}", agent_id)
        for n, (agent_id, name) in enumerate(list(choice.agents.items())[:_SHOWN_AGENTS])
    ]
    rows = [buttons[at : at + _BUTTONS] for at in range(0, len(buttons), _BUTTONS)]
    return [
        _section("Which agent is to answer? (Or say `use NAME`.)"),
        *({"type": "actions", "elements": row} for row in rows),
    ]


def _preview(body: Body) -> str:
    match body:
        case Text():
            said = escaped(body.markdown)
        case Working():
            said = body.status
        case Card():
            said = f"{body.tool}: {body.outcome or 'approval needed'}"
        case Trouble():
            said = f"The turn failed: {body.message}"
        case Choice():
            said = "Which agent is to answer?"
        case Attachment():
            said = body.name
    return disarm(said)[:_PREVIEW_CHARACTERS]


def _button(text: str, action: str, value: str, *, style: str | None = None) -> Json:
    shown = {"type": "plain_text", "text": text}
    button: Json = {"type": "button", "action_id": f"bulkhead:{action}", "text": shown, "value": value}
    return {**button, "style": style} if style else button


def _section(text: str) -> Json:
    return {"type": "section", "text": {"type": "mrkdwn", "text": text}}


def _code(text: str) -> Json:
    element = {"type": "text", "text": text}
    return {"type": "rich_text", "elements": [{"type": "rich_text_preformatted", "elements": [element]}]}


def _context(text: str) -> Json:
    return {"type": "context", "elements": [{"type": "mrkdwn", "text": text}]}
