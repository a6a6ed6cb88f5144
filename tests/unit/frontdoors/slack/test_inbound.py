"""What Slack tells us, as the contract has it."""

import pytest

from controlplane.frontdoors.contract import Said
from controlplane.frontdoors.slack.inbound import said


def heard(text: str, **event: str) -> Said:
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
