"""What Slack tells us, as the contract has it."""

from datetime import UTC, datetime
from typing import Any

import pytest

from controlplane.frontdoors.contract import Said
from controlplane.frontdoors.slack.inbound import commanded, crossed, denied, pressed, said, storable, team_of_person


def heard(text: str, **event: Any) -> Said:
    whole = {"channel": "C001", "ts": "1.0", "user": "U01ALICE", "text": text, **event}
    found = said({"event_id": "Ev1"}, whole, bot_user="U0BOT")
    assert found is not None
    assert isinstance(found.what, Said)
    return found.what


@pytest.mark.parametrize("event", [{"channel": "D001"}, {"channel": "G001", "channel_type": "im"}])
def test_in_a_conversation_of_two_everything_is_for_us(event: dict[str, str]) -> None:
    what = heard("<@U02BOB> is away: what now?", **event)
    assert what.addressed
    assert not what.elsewhere


def test_what_begins_with_somebody_else_in_a_channel_is_not_for_us() -> None:
    what = heard("<@U02BOB> what now?")
    assert (what.addressed, what.elsewhere) == (False, True)
    assert not heard("<@U02BOB> ask <@U0BOT>").elsewhere


def test_what_is_no_text_is_left_out() -> None:
    assert storable({"event": {"text": "a\0b\ud800c", "files": [{"name": "\0"}], "n": 1}}) == {
        "event": {"text": "ab?c", "files": [{"name": ""}], "n": 1}
    }


def test_whose_person_it_is_may_be_unknown() -> None:
    assert team_of_person({"event": {"user": "U01ALICE"}}) is None
    assert team_of_person({"event": {"user": "U01ALICE", "team": "T1", "user_team": "T2"}}) == "T2"
    assert team_of_person({"user": {"id": "U01ALICE", "team_id": "T1"}}) == "T1"


@pytest.mark.parametrize("metadata", ["", "[]", "{", "3", '["a", "b"]'])
def test_a_form_that_is_none_of_ours_says_nothing(metadata: str) -> None:
    values = {"reason": {"reason": {"value": "no"}}}
    view = {"id": "V1", "private_metadata": metadata, "state": {"values": values}}
    assert denied({"user": {"id": "U01ALICE"}, "view": view}) is None


def test_a_file_of_another_workspace_is_asked_about_later_and_not_left_out() -> None:
    stub, ours = {"id": "F1", "file_access": "check_file_info"}, {"id": "F2", "name": "a", "url_private": "https://x"}
    assert [(each.id, each.url) for each in heard("look", files=[stub, ours]).files] == [
        ("F1", ""),
        ("F2", "https://x"),
    ]


def test_what_people_do_is_known_by_when_they_did_it() -> None:
    message = said(
        {"event_id": "Ev1"}, {"channel": "C001", "ts": "7.5", "user": "U01", "text": "x"}, bot_user="U0BOT"
    )
    event = {"event_ts": "8.5", "user": "U01", "item": {"channel": "C001", "ts": "7.5"}}
    reaction = crossed({"event_id": "Ev2"}, event, thread="7.5")
    body = {"message": {"ts": "7.6"}, "channel": {"id": "C001"}, "user": {"id": "U01"}}
    button = pressed(body, {"action_id": "bulkhead:stop", "action_ts": "9.5"})
    command = commanded({"trigger_id": "1.2.3", "channel_id": "C001", "user_id": "U01"}, thread="7.5")
    assert message is not None
    assert button is not None
    times = [each.happened_at for each in (message, reaction, button, command)]
    assert times == [*(datetime(1970, 1, 1, 0, 0, n, 500_000, UTC) for n in (7, 8, 9)), None]
