"""The words that mean something else than a message to the agent."""

import pytest

from controlplane.frontdoors.words import Heard, hear, maybe_agent


def test_the_first_words_of_the_first_message_may_name_the_agent() -> None:
    assert hear("agent=bob do it") == Heard(None, "bob", "do it")
    assert hear("agent=bob now: do it") == Heard(None, "bob", "do it", steers=True)


@pytest.mark.parametrize("text", ["set it with curl -d agent=bob please", "say\nagent=bob"])
def test_what_names_an_agent_elsewhere_is_part_of_the_message(text: str) -> None:
    assert hear(text) == Heard(None, None, text)


def test_no_message_names_an_agent_once_the_session_has_begun() -> None:
    assert hear("agent=bob do it", begun=True) == Heard(None, None, "agent=bob do it")


def test_a_name_of_several_words_may_follow_use() -> None:
    assert maybe_agent("use Log Analyst") == "Log Analyst"
    assert hear("use Log Analyst") == Heard(None, None, "use Log Analyst"), "unless there is no such agent"
    assert maybe_agent("use the file\nand go on") is None
