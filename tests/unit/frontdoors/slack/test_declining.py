"""What Slack's refusals mean for what is to stand there."""

import pytest
from slack_sdk.web.async_client import AsyncWebClient
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from controlplane.frontdoors.contract import DeclinedError, Post, Text
from controlplane.frontdoors.slack.service import SlackService
from controlplane.models.listening import listening


@pytest.mark.parametrize(
    ("reason", "about"),
    [
        ("msg_blocks_too_long", "message"),
        ("no_text", "message"),
        ("metadata_too_large", "message"),
        ("what_comes_next_year", "message"),
        ("is_archived", "place"),
        ("restricted_action_thread_locked", "place"),
        ("edit_window_closed", "change"),
        ("message_not_found", "change"),
    ],
)
async def test_what_slack_declines_may_stand_in_another_form_but_where_nothing_may(reason: str, about: str) -> None:
    async def declines(scope: Scope, receive: Receive, send: Send) -> None:
        await JSONResponse({"ok": False, "error": reason})(scope, receive, send)

    async with listening(declines) as url:
        service = SlackService(AsyncWebClient(token="xoxb-x", base_url=f"{url}/api/"), team="T1", bot_user="U0BOT")
        with pytest.raises(DeclinedError) as told:
            await service.send("C1", None, Post(id="post_1", body=Text(markdown="hello")))
    assert (told.value.reason, told.value.about) == (reason, about)
