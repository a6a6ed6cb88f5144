"""What the real Temporal server makes of what it is told: at every clock change, and when it is told again."""

import asyncio
import itertools
from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta

import pytest
from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionExecutionStartWorkflow,
    ScheduleActionStartWorkflow,
    ScheduleBackfill,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleSpec,
    ScheduleState,
)
from temporalio.service import RPCError, RPCStatusCode

from controlplane.deployments.projection import Projection, calendar_of
from controlplane.store import deployments, due
from controlplane.store.deployments import DeploymentContent, ScheduleSettings
from controlplane.store.pool import Database
from tests.integration.schedules.conftest import WORKSPACE
from tests.support.clocks import ZONES, changes, showing, touched
from workflows.calendar import Dst, Rule, between
from workflows.connection import TemporalServer, connect, connect_patiently
from workflows.contracts import schedule_id

pytestmark = pytest.mark.slow

_numbers = itertools.count(1)
_PATIENCE_SECONDS = 30
NEXT_DAY = "2026-03-30T00:30:00Z"

_DSTS: tuple[Dst, ...] = ("skip", "run_once", "run_twice")


@pytest.fixture
async def temporal(temporal_address: str) -> Client:
    """A client of the server."""
    return await connect_patiently(TemporalServer(temporal_address))


async def started(
    temporal: Client, spec: ScheduleSpec, start: datetime, end: datetime, *, count: int
) -> list[datetime]:
    """Have a schedule run for a range of time, and return the times for which the server started something."""
    name = f"clock-{next(_numbers)}"
    handle = await temporal.create_schedule(
        name,
        Schedule(
            action=ScheduleActionStartWorkflow("nobody-runs-this", id=name, task_queue="nowhere"),
            spec=spec,
            policy=SchedulePolicy(overlap=ScheduleOverlapPolicy.ALLOW_ALL),
            state=ScheduleState(paused=True),
        ),
    )
    await handle.backfill(ScheduleBackfill(start_at=start, end_at=end, overlap=ScheduleOverlapPolicy.ALLOW_ALL))
    ids: list[str] = []
    async with asyncio.timeout(_PATIENCE_SECONDS):
        # What has been started is listed a moment later.
        while (ran := (await handle.describe()).info.num_actions) < count or len(ids) < ran:
            await asyncio.sleep(0.2)
            ids = [found.id async for found in temporal.list_workflows(f"TemporalScheduledById = '{name}'")]
    await handle.delete()
    return sorted(datetime.fromisoformat(each.removeprefix(f"{name}-")) for each in ids)


@pytest.mark.parametrize("zone", [ZONES[0], *(pytest.param(each, marks=pytest.mark.slow) for each in ZONES[1:])])
async def test_at_every_clock_change_the_server_fires_when_the_rule_says(temporal: Client, zone: str):
    for number, change in enumerate(changes(zone)):
        hours = sorted({local.hour for local in touched(zone, change)})
        local = touched(zone, change)[0]
        rule = Rule(
            expression=f"*/30 {','.join(map(str, hours))} {local.day} {local.month} *",
            timezone=zone,
            dst=_DSTS[number % len(_DSTS)],
            anchor=datetime(2026, 1, 1, tzinfo=UTC),
        )
        start, end = change - timedelta(hours=20), change + timedelta(hours=20)
        # The end is there so that there is something to wait for, also where a rule leaves everything out.
        wanted = [*told_by_the_clock(zone, change, rule.dst, hours), end]
        spec = ScheduleSpec(calendars=[calendar_of(each) for each in (*between(rule, start, end, most=100), end)])
        assert await started(temporal, spec, start, end, count=len(wanted)) == wanted


def told_by_the_clock(zone: str, change: datetime, dst: Dst, hours: Sequence[int]) -> list[datetime]:
    """Return when a schedule of each half hour of some hours should fire, by looking at a clock minute by minute."""
    day = touched(zone, change)[0].date()
    found: set[datetime] = set()
    for hour, minute in itertools.product(hours, (0, 30)):
        shown = showing(zone, datetime.combine(day, time(hour, minute)), change)
        if len(shown) == 1:
            found.update(shown)
        elif dst == "run_once":
            found.update(shown[:1] or [change])
        elif dst == "run_twice":
            found.update(shown or [change])
    return sorted(found)


@pytest.mark.parametrize(
    ("expression", "start", "end", "wanted"),
    [
        ("0 9 29 2 *", "2027-06-01", "2033-01-01", ["2028-02-29", "2032-02-29"]),
        (
            "0 9 31 * *",
            "2027-12-31",
            "2029-01-01",
            [f"20{day}" for day in (
                "27-12-31", "28-01-31", "28-03-31", "28-05-31", "28-07-31", "28-08-31", "28-10-31", "28-12-31"
            )],
        ),
    ],
    ids=["leap day", "the 31st"],
)  # fmt: skip
async def test_days_that_are_not_in_every_month_or_year(
    temporal: Client, expression: str, start: str, end: str, wanted: list[str]
):
    first, last = (datetime.fromisoformat(f"{day}T00:00:00Z") for day in (start, end))
    rule = Rule(expression=expression, timezone="UTC", anchor=first)
    spec = ScheduleSpec(calendars=[calendar_of(each) for each in between(rule, first, last, most=100)])
    found = await started(temporal, spec, first, last, count=len(wanted))
    assert found == [datetime.fromisoformat(f"{day}T09:00:00Z") for day in wanted]


async def test_jitter_puts_a_start_off_by_no_more_and_leaves_the_time_in_the_id(temporal: Client):
    """What the run's id is made of is the time of the schedule: a firing that was put off is the same firing."""
    jitter, name = timedelta(seconds=3), f"clock-{next(_numbers)}"
    soon = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=2)
    wanted = [soon + timedelta(seconds=number) for number in range(4)]
    handle = await temporal.create_schedule(
        name,
        Schedule(
            action=ScheduleActionStartWorkflow("nobody-runs-this", id=name, task_queue="nowhere"),
            spec=ScheduleSpec(calendars=[calendar_of(each) for each in wanted], jitter=jitter),
            policy=SchedulePolicy(overlap=ScheduleOverlapPolicy.ALLOW_ALL),
        ),
    )
    async with asyncio.timeout(_PATIENCE_SECONDS):
        while True:
            found = (await handle.describe()).info
            if found.num_actions == len(wanted):
                break
            await asyncio.sleep(0.2)
    await handle.delete()
    put_off: dict[datetime, timedelta] = {}
    for each in found.recent_actions:
        assert isinstance(each.action, ScheduleActionExecutionStartWorkflow)
        at = datetime.fromisoformat(each.action.workflow_id.removeprefix(f"{name}-"))
        put_off[at] = each.scheduled_at - at
    assert sorted(put_off) == wanted
    assert all(timedelta(0) <= by <= jitter for by in put_off.values())
    assert any(put_off.values())


@pytest.mark.parametrize(
    ("expression", "start", "days", "theirs", "ours"),
    [
        ("30 2 * * *", date(2026, 3, 29), 2, [NEXT_DAY], ["2026-03-29T01:00:00Z", NEXT_DAY]),
        ("30 2 * * *", date(2026, 10, 25), 1, ["2026-10-25T01:30:00Z"], ["2026-10-25T00:30:00Z"]),
        (
            "0 12 13 * 5",
            date(2026, 2, 6),
            8,
            ["2026-02-13T11:00:00Z"],
            ["2026-02-06T11:00:00Z", "2026-02-13T11:00:00Z"],
        ),
    ],
    ids=["skipped hour", "repeated hour", "day of month and of week"],
)
async def test_why_the_servers_own_cron_is_not_used(
    temporal: Client, expression: str, start: date, days: int, theirs: Sequence[str], ours: Sequence[str]
):
    zone = "Europe/Berlin"
    midnight = datetime(start.year, start.month, start.day, tzinfo=UTC) - timedelta(hours=1)
    end = midnight + timedelta(days=days)
    spec = ScheduleSpec(cron_expressions=[expression], time_zone_name=zone)
    found = await started(temporal, spec, midnight, end, count=len(theirs))
    assert found == [datetime.fromisoformat(each) for each in theirs]
    rule = Rule(expression=expression, timezone=zone, anchor=midnight)
    assert between(rule, midnight, end, most=9) == [datetime.fromisoformat(each) for each in ours]


@pytest.fixture
def projection(database: Database, temporal: Client) -> Projection:
    """What tells the real server."""
    return Projection(database=database, client=temporal)


@pytest.fixture
async def settings() -> ScheduleSettings:
    """A schedule of every minute."""
    return ScheduleSettings(expression="* * * * *", anchor=datetime.now(UTC), catchup_window_seconds=3600)


@pytest.fixture
async def deployment_id(database: Database, content: DeploymentContent, settings: ScheduleSettings) -> str:
    """A deployment with that schedule."""
    timed = content.model_copy(update={"schedule": settings})
    async with database.transaction(WORKSPACE) as connection:
        return await deployments.create(
            connection, WORKSPACE, content=timed, created_by="key_x", now=datetime.now(UTC)
        )


async def project(projection: Projection, database: Database, deployment_id: str) -> bool:
    """Tell the server of the deployment, if that is due, and say whether it was."""
    async with database.transaction(WORKSPACE) as connection:
        found = [each for each in await due.unprojected(connection) if each.id == deployment_id]
    for each in found:
        await projection.project(each)
    return bool(found)


async def times_of(temporal: Client, deployment_id: str) -> list[datetime] | None:
    """Return the next times that the server knows of, None without a schedule."""
    try:
        found = await temporal.get_schedule_handle(schedule_id(deployment_id)).describe()
    except RPCError as error:
        assert error.status is RPCStatusCode.NOT_FOUND
        return None
    return list(found.info.next_action_times)


async def test_the_server_is_told_of_each_change_and_no_more(
    database: Database, projection: Projection, temporal: Client, deployment_id: str
):
    assert await project(projection, database, deployment_id)
    assert not await project(projection, database, deployment_id), "told once is enough"
    found = await times_of(temporal, deployment_id)
    assert found
    assert {each.second for each in found} == {0}
    async with database.transaction(WORKSPACE) as connection:
        await deployments.pause(connection, deployment_id, {"type": "manual"}, now=datetime.now(UTC))
    assert await project(projection, database, deployment_id)
    assert await times_of(temporal, deployment_id) is None
    async with database.transaction(WORKSPACE) as connection:
        await deployments.unpause(connection, deployment_id, by="key_x", now=datetime.now(UTC))
    assert await project(projection, database, deployment_id)
    assert await times_of(temporal, deployment_id)
    async with database.transaction(WORKSPACE) as connection:
        await deployments.archive(connection, deployment_id, now=datetime.now(UTC))
    assert await project(projection, database, deployment_id)
    assert await times_of(temporal, deployment_id) is None


async def test_the_server_is_told_of_more_times_before_it_has_none_left(
    database: Database, projection: Projection, temporal: Client, deployment_id: str
):
    await project(projection, database, deployment_id)
    async with database.transaction(WORKSPACE) as connection:
        record = await deployments.get(connection, deployment_id)
        assert record.renew_at is not None
        assert timedelta(minutes=30) < record.renew_at - datetime.now(UTC) < timedelta(minutes=34)
        await connection.execute("UPDATE deployments SET renew_at = now() - interval '1 s'")
    assert await project(projection, database, deployment_id)
    assert not await project(projection, database, deployment_id)


async def test_two_control_planes_tell_the_server_one_after_the_other(
    database: Database, projection: Projection, temporal: Client, deployment_id: str
):
    other = Projection(database=database, client=temporal)
    mine = due.Due(id=deployment_id, workspace_id=WORKSPACE)
    await asyncio.gather(*(each.project(mine) for each in (projection, other) * 4))
    assert await times_of(temporal, deployment_id)


async def test_a_kill_between_the_row_and_the_server_heals(
    database: Database, projection: Projection, temporal: Client, deployment_id: str
):
    """The row says more than the server has heard, and the other way round: told, and the note of it lost."""
    await project(projection, database, deployment_id)
    async with database.transaction(WORKSPACE) as connection:
        await connection.execute("UPDATE deployments SET projected_version = 0")
    assert await project(projection, database, deployment_id)
    await temporal.get_schedule_handle(schedule_id(deployment_id)).delete()
    async with database.transaction(WORKSPACE) as connection:
        await connection.execute("UPDATE deployments SET projected_version = 0")
    assert await project(projection, database, deployment_id)
    assert await times_of(temporal, deployment_id)


async def test_no_connection_is_held_while_the_server_does_not_answer(database: Database, deployment_id: str):
    asked, mute = asyncio.Event(), asyncio.Event()

    async def says_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await mute.wait()
        writer.close()

    listener = await asyncio.start_server(says_nothing, "127.0.0.1", 0)
    address = "{}:{}".format(*listener.sockets[0].getsockname())
    narrow = Database(database.url, max_connections=1, wait_seconds=2)
    await narrow.open()
    slow = Projection(database=narrow, client=await connect(TemporalServer(address)))
    telling = asyncio.create_task(slow.project(due.Due(id=deployment_id, workspace_id=WORKSPACE)))
    try:
        async with asyncio.timeout(_PATIENCE_SECONDS):
            await asked.wait()
        async with narrow.transaction(WORKSPACE) as connection:
            assert not await due.claim_projection(connection, deployment_id, lease=timedelta(0)), "it has the claim"
            assert deployment_id not in [each.id for each in await due.unprojected(connection)]
        assert not telling.done()
    finally:
        mute.set()
        await asyncio.gather(telling, return_exceptions=True)
        listener.close()
        await narrow.close()
    async with database.transaction(WORKSPACE) as connection:
        assert deployment_id in [each.id for each in await due.unprojected(connection)], (
            "it failed, and is told again"
        )
