"""Who may what where."""

from typing import Any

import pytest
from pydantic import ValidationError

from controlplane.frontdoors.policy import ANY, Rules, readable

CHANNEL, OTHER, DIRECT = "C001", "C002", "D001"
ALICE, BOB = "U01ALICE", "U02BOB"
SECRETARY, SURGEON = "agent_secretary", "agent_surgeon"


def rules(**given: Any) -> Rules:
    return Rules.model_validate({"environment_id": "env_1", "agent_id": SECRETARY, **given})


def test_without_a_word_everybody_may_everything_everywhere() -> None:
    for place in (CHANNEL, DIRECT):
        assert rules().may_talk(place, BOB)
        assert rules().may_decide(place, BOB)
        assert rules().may_answer(place, SURGEON)


def test_what_is_said_for_the_whole_door_holds_in_every_place_that_says_nothing() -> None:
    said = rules(agent_ids=[SECRETARY], people=[ALICE], deciders=[ALICE], places={CHANNEL: {"people": [ALICE, BOB]}})
    for place in (OTHER, DIRECT):
        assert not said.may_answer(place, SURGEON)
        assert not said.may_talk(place, BOB)
    assert said.may_talk(CHANNEL, BOB)
    assert not said.may_decide(CHANNEL, BOB)
    assert not said.may_answer(CHANNEL, SURGEON)


@pytest.mark.parametrize("place", [OTHER, DIRECT])
def test_a_limit_of_one_place_is_not_passed_by_going_to_another(place: str) -> None:
    of_agents = rules(places={CHANNEL: {"agent_ids": [SURGEON]}})
    assert not of_agents.may_answer(place, SURGEON)
    assert of_agents.may_answer(place, SECRETARY), "who answers by default may still"
    assert of_agents.may_talk(place, BOB)
    of_people = rules(places={CHANNEL: {"agent_id": SURGEON, "people": [ALICE]}})
    assert not of_people.may_talk(place, BOB)
    assert not of_people.may_answer(place, SURGEON)
    of_deciders = rules(places={CHANNEL: {"deciders": [ALICE]}})
    assert of_deciders.may_talk(place, BOB)
    assert not of_deciders.may_decide(place, BOB)


def test_a_limit_on_people_keeps_no_agent_from_those_who_are_named() -> None:
    said = rules(places={CHANNEL: {"people": [ALICE]}, OTHER: {"people": [ANY]}})
    assert said.may_answer(CHANNEL, SURGEON)
    assert not said.may_answer(OTHER, SURGEON), "who is kept out of the one could meet its agents in the other"
    assert not said.may_answer(DIRECT, SURGEON)
    listed = rules(places={CHANNEL: {"people": [ALICE]}, OTHER: {"agent_ids": [SURGEON]}})
    assert not listed.may_answer(CHANNEL, SURGEON), "a limit on agents does"


def test_conversations_of_two_and_places_without_a_rule_have_rules_of_their_own() -> None:
    said = rules(
        places={CHANNEL: {"people": [ALICE]}},
        direct={"agent_id": SURGEON, "people": [ANY]},
        elsewhere={"people": [BOB], "agent_ids": [ANY]},
    )
    assert said.may_talk(DIRECT, BOB)
    assert said.default_agent(DIRECT) == SURGEON
    assert said.may_talk(OTHER, BOB)
    assert said.may_answer(OTHER, SURGEON)
    assert not said.may_talk(OTHER, ALICE)
    assert not said.may_talk(CHANNEL, BOB)


def test_who_is_named_for_a_place_answers_there_unless_its_own_list_says_otherwise() -> None:
    said = rules(agent_ids=[SECRETARY], places={CHANNEL: {"agent_id": SURGEON}})
    assert said.default_agent(CHANNEL) == SURGEON
    assert said.default_agent(OTHER) == SECRETARY
    listed = rules(places={CHANNEL: {"agent_id": SURGEON, "agent_ids": [SECRETARY]}})
    assert listed.default_agent(CHANNEL) is None


def test_every_agent_that_is_named_anywhere_is_found() -> None:
    said = rules(
        agent_ids=["agent_1", ANY],
        places={CHANNEL: {"agent_id": "agent_2"}},
        direct={"agent_ids": ["agent_3"]},
        elsewhere={"agent_id": "agent_4"},
    )
    assert said.named_agents() == {SECRETARY, "agent_1", "agent_2", "agent_3", "agent_4"}


@pytest.mark.parametrize("field", ["agent_ids", "people", "deciders"])
def test_a_list_that_cannot_be_read_names_nobody_and_the_rest_holds(field: str) -> None:
    stored = {"environment_id": "env_1", "agent_id": SECRETARY, "places": {CHANNEL: {"people": [BOB]}}}
    broken = readable({**stored, field: [ALICE, 7]})
    assert broken == rules(places={CHANNEL: {"people": [BOB]}}, **{field: []})
    place = readable({**stored, "places": {CHANNEL: {"agent_id": SURGEON, field: "all"}, OTHER: {"people": [BOB]}}})
    assert place == rules(places={CHANNEL: {"agent_id": SURGEON, field: []}, OTHER: {"people": [BOB]}})


@pytest.mark.parametrize("place", [None, {"nights": False}, {"people": [BOB], "nights": False}])
def test_a_place_of_which_nobody_knows_what_it_limits_is_closed(place: Any) -> None:
    stored = {"environment_id": "env_1", "agent_id": SECRETARY}
    closed = {"agent_ids": [], "people": [], "deciders": []}
    assert readable({**stored, "places": {CHANNEL: place, OTHER: {}}}) == rules(places={CHANNEL: closed, OTHER: {}})
    for name in ("direct", "elsewhere"):
        if place is not None:
            assert readable({**stored, name: place}) == rules(**{name: closed})


def test_fields_that_limit_nobody_are_left_out_where_they_cannot_be_read() -> None:
    stored = {"environment_id": "env_1", "agent_id": 7, "vault_ids": "all", "session_url": "nowhere"}
    assert readable(stored) == rules(agent_id=None)


@pytest.mark.parametrize(
    "broken",
    [{"environment_id": None}, {"places": []}, {"closed_at_night": True}],
    ids=lambda given: next(iter(given)),
)
def test_where_nothing_is_known_to_be_as_safe_no_rules_hold(broken: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        readable({"environment_id": "env_1", "agent_id": SECRETARY, **broken})
