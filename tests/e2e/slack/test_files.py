"""Files that come with a message, and files that come with an answer."""

from typing import Any

import pytest

from tests.e2e.slack.test_boundary import send, signed, told
from tests.support.client import run, script
from tests.support.emulator import ALICE, BOT, BOT_TOKEN, shown
from tests.support.slack import Workspace

pytestmark = pytest.mark.slow


async def test_a_file_from_slack_is_in_the_sessions_sandbox(slack: Workspace) -> None:
    words = script(run("cat /mnt/session/uploads/*"), {"text": "it says {{result}}"})
    await slack.slack.upload("C001", f"<@{BOT}> {words}", "notes.txt", b"buy milk")

    async def answered() -> str | None:
        found = [shown(each) for each in await slack.slack.messages("C001") if each.get("user") == BOT]
        return next((each for each in found if "buy milk" in each), None)

    assert "it says buy milk" in await slack.until(answered, "the file's content")


async def test_of_a_later_file_the_agent_is_told_where_it_will_be(slack: Workspace) -> None:
    """It is one of another workspace, of which the event says nothing; the stub is shaped after ``files_info``."""
    ts = await slack.slack.mention("C001", script({"text": "first"}))
    (answer,) = await slack.answers("C001", ts)
    await slack.slack.upload("C001", "a plan", "plan.txt", b"buy milk")
    (file,) = [file for each in await slack.slack.messages("C001") for file in each.get("files") or []][-1:]
    slack.relay.stubs["files.info"] = lambda _: {"ok": True, "file": file}
    event = {"thread_ts": ts, "text": "look", "files": [{"id": "F0STUB", "file_access": "check_file_info"}]}
    body = told(event=event)
    assert await send(slack, body, signed(body)) == 200
    path = f"/v1/sessions/{shown(answer).rpartition('/')[2]}/events"

    async def heard() -> str | None:
        found = str((await slack.client.get(path, types="user.message", limit="10"))["data"])
        return found if "plan.txt" in found else None

    said = await slack.until(heard, "what the agent is told of the file")
    del slack.relay.stubs["files.info"]
    assert "in the next sandbox of this session" in said
    assert f"Alice Anderson (slack {ALICE}) says:" in said


async def files_in(slack: Workspace, channel: str, thread: str, count: int) -> dict[str, bytes]:
    """Wait for so many files of ours in a thread, and return what they have by name."""

    async def there() -> list[dict[str, Any]] | None:
        found = [file for each in await slack.slack.thread(channel, thread) for file in each.get("files") or []]
        return found if len(found) >= count else None

    files = await slack.until(there, f"{count} files")
    headers = {"Authorization": f"Bearer {BOT_TOKEN}"}
    contents = [(await slack.slack.http.get(file["url_private"], headers=headers)).content for file in files]
    assert len({file["name"] for file in files}) == len(files), "none stands there twice"
    return dict(zip([file["name"] for file in files], contents, strict=True))


async def test_what_an_agent_leaves_stands_in_its_thread_once(slack: Workspace) -> None:
    token = "ghp_" + "a1B2" * 9
    write = "cd /mnt/session/outputs; "
    write += f"echo hello > a.txt; printf '\\000\\001' > b.bin; echo {token} > c; truncate -s 21M d"
    ts = await slack.slack.mention("C001", script(run(write), {"text": "all done"}))
    assert await files_in(slack, "C001", ts, 2) == {"a.txt": b"hello\n", "b.bin": b"\0\1"}
    await slack.slack.say("C001", script(run("touch /mnt/session/outputs/a.txt"), {"text": "again"}), thread=ts)
    await slack.answers("C001", ts, times=2)

    async def named() -> bool:
        said = "\n".join(shown(each) for each in await slack.slack.thread("C001", ts))
        return "`d`: larger than 20 MB" in said and "`c` could not be sent: it has secrets in it" in said

    await slack.until(named, "what is not sent")
    assert len(await files_in(slack, "C001", ts, 2)) == 2
