"""Files that come with a message."""

from tests.support.client import run, script
from tests.support.emulator import BOT, shown
from tests.support.slack import Workspace


async def test_a_file_from_slack_is_in_the_sessions_sandbox(slack: Workspace) -> None:
    words = script(run("cat /mnt/session/uploads/*"), {"text": "it says {{result}}"})
    await slack.slack.upload("C001", f"<@{BOT}> {words}", "notes.txt", b"buy milk")

    async def answered() -> str | None:
        found = [shown(each) for each in await slack.slack.messages("C001") if each.get("user") == BOT]
        return next((each for each in found if "buy milk" in each), None)

    assert "it says buy milk" in await slack.until(answered, "the file's content")
