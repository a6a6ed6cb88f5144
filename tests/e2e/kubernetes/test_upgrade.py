"""Another image with a newer schema, and back: what is said meanwhile is answered once, no command runs twice."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Generator
from dataclasses import dataclass
from importlib.metadata import version

import httpx
import pytest

from tests.support.chart import CHART, Release, objects, on_the_nodes
from tests.support.client import Client, run, script, text
from tests.support.layers import write_layer
from tests.support.servers import installed
from tests.support.watch import Watcher

pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(600)]

NAMESPACE = "bulkhead-upgrade"
LATER_VERSION = "99.0"
MIGRATION = "9000_later"
MIGRATION_SQL = "".join(
    f"ALTER TABLE {table} ADD COLUMN later text;"
    for table in ("sessions", "turns", "tool_calls", "events", "sandboxes")
)
PROGRAM = "/opt/bulkhead/program"
TURN_SECONDS = 120
HELD_SECONDS = 300
HELD = "touch /workspace/{0}-begun; until [ -e /workspace/{0} ]; do sleep 0.1; done; echo held >> /workspace/ran"


@pytest.fixture(scope="module")
def release() -> Generator[Release]:
    """An installation with a Postgres that stays where it is."""
    with installed(NAMESPACE) as made, made.forwarded():
        yield made


@pytest.fixture(scope="module")
def later(release: Release, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The image of a later version on the nodes: the same with one more layer."""
    [image] = release.images()
    name, archive = f"{image}-{LATER_VERSION}", tmp_path_factory.mktemp("later") / "image.tar"
    files = {
        f"{PROGRAM}/controlplane/store/migrations/{MIGRATION}.sql": MIGRATION_SQL,
        f"{PROGRAM}/bulkhead-{version('bulkhead')}.dist-info/METADATA": f"Name: bulkhead\nVersion: {LATER_VERSION}\n",
    }
    write_layer(archive, name, base=image, files=files)
    return on_the_nodes(name, archive)


@pytest.fixture
async def client(release: Release) -> AsyncGenerator[Client]:
    """A client of the installation."""
    async with Client(release) as made:
        yield made


@dataclass
class Talk:
    """A session, and what somebody has said in it whom the API told that it was accepted."""

    client: Client
    session_id: str
    watcher: Watcher
    accepted: int = 0

    async def say(self, command: str, **more: float) -> None:
        """Say what makes it run a command and answer with its number; again if nobody said that it was accepted."""
        self.accepted += 1
        steps = script(run(command, **more), {"text": f"answer {self.accepted}: {{{{result}}}}"})
        event = {"type": "user.message", "content": [{"type": "text", "text": steps}]}
        key = {"idempotency-key": f"{self.session_id}-{self.accepted}"}
        async with asyncio.timeout(TURN_SECONDS):
            while True:
                with contextlib.suppress(httpx.TransportError):
                    answer = await self.client.http.post(
                        f"/v1/sessions/{self.session_id}/events", json={"events": [event]}, headers=key
                    )
                    if answer.is_success:
                        return
                    assert answer.status_code in {429, 502, 503, 504}, answer.text
                await asyncio.sleep(0.2)

    async def go_on_until(self, over: asyncio.Event) -> None:
        """Say one thing after another, each when the last one was answered."""
        while not over.is_set():
            await self.say(f"echo {self.accepted + 1} >> /workspace/ran")
            await self.watcher.until_idle(times=self.accepted, timeout_seconds=TURN_SECONDS)

    async def verdict(self, ran: list[str]) -> None:
        """See that each thing said was answered once, and that these are the commands that ran."""
        await self.say("paste -sd ' ' /workspace/ran")
        await self.watcher.until_idle(times=self.accepted, timeout_seconds=TURN_SECONDS)
        answers = [text(each) for each in self.watcher.of("agent.message")]
        assert [each.partition(":")[0] for each in answers] == [f"answer {n + 1}" for n in range(self.accepted)]
        assert answers[-1].splitlines()[0] == f"answer {self.accepted}: {' '.join(ran)}"


@contextlib.asynccontextmanager
async def talks(client: Client, count: int) -> AsyncGenerator[list[Talk]]:
    """Open so many sessions."""
    async with contextlib.AsyncExitStack() as open_now:
        ids = [await client.session() for _ in range(count)]
        yield [Talk(client, each, await open_now.enter_async_context(client.watching(each))) for each in ids]


def pods(release: Release) -> set[str]:
    """Return the pods of the parts, also those that are about to end."""
    return {each["metadata"]["name"] for each in objects("pods", release.namespace)}


def until_gone(release: Release, old: set[str]) -> None:
    """Return when none of these pods is there any more."""
    until = time.monotonic() + TURN_SECONDS
    while old & pods(release):
        assert time.monotonic() < until, release.state()
        time.sleep(0.2)


async def roll(release: Release, client: Client, *change: str) -> None:
    """Change the release under two turns that outlive every pod and two rows of turns; see what came of them."""
    over = asyncio.Event()
    async with talks(client, 4) as sessions:
        held, busy = sessions[:2], sessions[2:]
        before = pods(release)
        async with asyncio.TaskGroup() as group:
            for talk in held:
                await talk.say(HELD.format(change[0]), timeout_seconds=HELD_SECONDS)
            await asyncio.to_thread(release.until_in_sandboxes, f"test -e /workspace/{change[0]}-begun", len(held))
            for talk in busy:
                group.create_task(talk.go_on_until(over))
            await asyncio.to_thread(release.helm, *change, "--wait", "--timeout=4m")
            await asyncio.to_thread(until_gone, release, before)
            for talk in held:
                assert not talk.watcher.of("agent.tool_result"), (
                    "its call is open, and who asked and who ran it are gone"
                )
            await asyncio.to_thread(
                release.until_in_sandboxes,
                f"test -e /workspace/{change[0]}-begun && touch /workspace/{change[0]}",
                len(held),
            )
            over.set()
        for talk in held:
            await talk.watcher.until_idle(timeout_seconds=TURN_SECONDS)
            await talk.verdict(["held"])
        for talk in busy:
            assert talk.accepted > 1
            await talk.verdict([str(n + 1) for n in range(talk.accepted)])
        await asyncio.to_thread(release.settle)
        for talk in sessions:
            await client.delete(f"/v1/sessions/{talk.session_id}")


def migrations(release: Release) -> list[str]:
    """Return the migrations that the database has."""
    ask = (
        "import os, psycopg; connection = psycopg.connect(os.environ['BULKHEAD_DATABASE_URL']);"
        " print(*(row[0] for row in connection.execute('SELECT name FROM schema_migrations')))"
    )
    return release.kubectl("exec", "deployment/bulkhead-api", "--", "/opt/bulkhead/bin/python", "-c", ask).split()


def runs(release: Release) -> str:
    """Return the version that answers."""
    return httpx.get(f"{release.url}/healthz", timeout=30).json()["version"]


async def test_an_upgrade_and_a_rollback_lose_nothing_and_double_nothing(
    client: Client, release: Release, later: str
) -> None:
    [earlier] = release.images()
    tag = later.rpartition(":")[2]
    await roll(release, client, "upgrade", str(CHART), "--reuse-values", f"--set=image.tag={tag}")
    assert (runs(release), release.images()) == (LATER_VERSION, {later})
    assert MIGRATION in migrations(release)
    await roll(release, client, "rollback", "1")
    assert (runs(release), release.images()) == (version("bulkhead"), {earlier})
    assert MIGRATION in migrations(release), "the version before runs on the newer schema"
