"""How our messages look in Slack."""

import json

from controlplane.frontdoors.slack.blocks import arguments_view


def test_a_window_says_what_of_the_arguments_it_does_not_show() -> None:
    whole = arguments_view("x" * 200_000)
    assert sum(json.dumps(block).count("x") for block in whole["blocks"]) >= 200_000
    assert "not shown" not in json.dumps(whole)
    cut = json.dumps(arguments_view("x" * 200_321))
    assert "321 more characters are not shown" in cut
    assert len(arguments_view("x" * 1_000_000)["blocks"]) <= 100
