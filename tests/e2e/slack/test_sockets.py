"""Connections of Socket Mode that end in the middle: told again is told once, and nothing is lost."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass

import pytest

from tests.support.client import script
from tests.support.emulator import shown
from tests.support.holding import in_its_database
from tests.support.slack import Workspace, workspace
from tests.support.sockets import Sockets, sockets
from tests.support.stack import Stack

pytestmark = pytest.mark.slow


@dataclass
class Line:
    """A workspace that is told things by a connection, and that connection's other end."""

    slack: Workspace
    sockets: Sockets

    async def answered(self, thread: str, said: str) -> None:
        """See that an answer stands once, and that its session was told one message."""
        (answer,) = await self.slack.answers("C001", thread)
        assert shown(answer).startswith(said)
        session_id = shown(answer).rpartition("/")[2]
        told = await self.slack.client.get(f"/v1/sessions/{session_id}/events", types="user.message", limit="10")
        assert len(told["data"]) == 1


@pytest.fixture(scope="module")
async def line(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Line]:
    """A workspace in Socket Mode."""
    async with sockets() as served:
        stubs = {"apps.connections.open": lambda _: {"ok": True, "url": served.url}}
        async with workspace(stack, tmp_path_factory.mktemp("sockets"), "socket", stubs=stubs) as opened:
            yield Line(opened, served)


async def test_what_is_told_twice_is_acknowledged_twice_and_done_once(line: Line) -> None:
    thread, envelope = await line.sockets.mention(script({"text": "told twice"}), copies=2)
    await line.sockets.took(envelope, times=2)
    await line.answered(thread, "told twice")


@pytest.mark.parametrize("reason", ["warning", "refresh_requested"])
async def test_a_connection_that_slack_announces_to_end_is_followed_by_another(line: Line, reason: str) -> None:
    before = line.sockets.connections
    await line.sockets.disconnect(reason)
    await line.sockets.connected(before + 1)
    thread, envelope = await line.sockets.mention(script({"text": f"after {reason}"}))
    await line.sockets.took(envelope)
    await line.answered(thread, f"after {reason}")


@pytest.mark.parametrize("how", ["close", "disconnect"])
async def test_what_was_in_hand_when_the_connection_ended_is_told_again_and_done_once(line: Line, how: str) -> None:
    before = line.sockets.connections
    async with in_its_database(line.slack) as holder, holder.transaction():
        await holder.execute("LOCK TABLE front_door_inbox IN EXCLUSIVE MODE")
        thread, envelope = await line.sockets.mention(script({"text": f"in hand at {how}"}))

        async def in_hand() -> bool:
            found = await holder.execute(
                "SELECT FROM pg_locks WHERE NOT granted AND relation = 'front_door_inbox'::regclass"
            )
            return await found.fetchone() is not None

        await line.slack.until(in_hand, "what was told on its way into the record")
        if how == "close":
            await line.sockets.close()
        else:
            await line.sockets.disconnect("refresh_requested")
        await line.sockets.connected(before + 1)
    await line.sockets.took(envelope)
    await line.answered(thread, f"in hand at {how}")
