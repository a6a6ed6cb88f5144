"""How our messages look in Slack."""

import json

from controlplane.frontdoors.contract import Card
from controlplane.frontdoors.slack.blocks import arguments, arguments_view


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
