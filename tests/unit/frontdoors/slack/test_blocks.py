"""How our messages look in Slack."""

import json

import pytest

from controlplane.frontdoors.contract import Body, Card, Post, Text, Trouble, Working
from controlplane.frontdoors.slack.blocks import Json, arguments, arguments_view, blocks, is_ours, message

LONG = "a <b> & " * 1_000
CARD = Card(tool_use_id="t", tool="bash", input={"command": "ls"}, seal="s")


def test_a_window_says_what_of_the_arguments_it_does_not_show() -> None:
    whole = arguments_view("x" * 200_000)
    assert sum(json.dumps(block).count("x") for block in whole["blocks"]) >= 200_000
    assert "not shown" not in json.dumps(whole)
    cut = json.dumps(arguments_view("x" * 200_321))
    assert "321 more characters are not shown" in cut
    assert len(arguments_view("x" * 1_000_000)["blocks"]) <= 100


def test_arguments_show_what_cannot_be_seen_and_stay_the_same() -> None:
    given = {"command": "rm \u202efdp.x\u202c \u200b\u00a0\x7f \u2028 é 😀 <!channel> a\nb"}
    shown = arguments(Card(tool_use_id="t", tool="bash", input=given, seal=""))
    assert json.loads(shown) == given
    assert not any(each in shown for each in "\u202e\u202c\u200b\u00a0\x7f\u2028")
    assert "<!channel>" not in shown
    assert "é 😀" in shown


@pytest.mark.parametrize(
    "body",
    [
        CARD.model_copy(update={"outcome": f"denied by Bob: {LONG}"}),
        Trouble(message=LONG, session_id="sesn_1"),
        Working(status=LONG, link=LONG),
        Text(markdown="x", footer=LONG),
    ],
    ids=["card", "trouble", "working", "text"],
)
@pytest.mark.parametrize("shift", range(6))
def test_what_is_too_long_for_a_block_is_cut_and_says_so(body: Body, shift: int) -> None:
    moved = type(body).model_validate_json(body.model_dump_json().replace("a <b>", "x" * shift + "<b>", 1))
    texts = [text for block in blocks(moved) for text in mrkdwn(block)]
    assert all(len(text) <= 3_000 for text in texts)
    (cut, *_) = [text for text in texts if len(text) > 2_000]
    assert cut.endswith("…")
    assert cut.count("&") == sum(cut.count(each) for each in ("&amp;", "&lt;", "&gt;")), "none is cut in two"


def mrkdwn(block: Json) -> list[str]:
    """Return the texts of a section or a context, of which Slack takes 3,000 characters each."""
    found = [block["text"]] if block["type"] == "section" else block.get("elements", [])
    return [each["text"] for each in found if each["type"] == "mrkdwn"]


@pytest.mark.parametrize(
    "body", [Text(markdown="x"), Text(markdown="x", footer="y"), CARD], ids=["bare", "text", "card"]
)
def test_a_message_is_known_again_by_either_of_its_marks(body: Body) -> None:
    post, other = Post(id="post_1", body=body), Post(id="post_2", body=body)
    sent = message(post)
    assert is_ours({"metadata": sent["metadata"]}, post)
    # Slack keeps no ids of blocks of markdown.
    kept = [block for block in sent["blocks"] if block["type"] != "markdown"]
    assert is_ours({"blocks": kept}, post) is bool(kept)
    assert all("block_id" not in block for block in sent["blocks"] if block["type"] == "markdown")
    assert not is_ours(sent, other)
