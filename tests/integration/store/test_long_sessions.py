"""What a page costs in a session of 50,000 events: rows looked at, as Postgres itself counts them."""

import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from psycopg.types.json import Jsonb

from controlplane.embedded.postgres import EmbeddedPostgres
from controlplane.store import events, journal, queue, sessions, settling
from controlplane.store.events import EventFilter
from controlplane.store.pool import Connection, Database
from controlplane.store.sessions import SessionFilter
from tests.integration.store.conftest import WORKSPACE, make_session
from workflows.contracts import TurnInput

EVENTS = 50_000
PAGE = 100


@pytest.fixture(scope="module")
async def database(postgres: EmbeddedPostgres, migrated_template: str) -> AsyncGenerator[Database]:
    """One for all tests here: they only look, and a session of that length takes a while to be made."""
    await postgres.create_database("long_sessions", template=migrated_template)
    opened = Database(postgres.url("long_sessions"))
    await opened.open()
    yield opened
    await opened.close()
    await postgres.drop_database("long_sessions")


@pytest.fixture(scope="module")
async def long_session(database: Database) -> str:
    """A session of 5,000 turns: message, running, request, its end, a call, its result, two blocks, idle."""
    session_id = await make_session(database)
    async with database.transaction(WORKSPACE) as connection:
        await connection.execute(
            "INSERT INTO turns (id, workspace_id, session_id, status, begun_seq, started_at, ended_at)"
            " SELECT 'turn_' || %(id)s || n, %(workspace)s, %(id)s, 'ended', n * 10, now(), now()"
            " FROM generate_series(0, %(turns)s) AS n",
            {"id": session_id, "workspace": WORKSPACE, "turns": EVENTS // 10 - 1},
        )
        await connection.execute(
            "INSERT INTO events (session_id, seq, id, workspace_id, type, payload, turn_id, position, processed_at)"
            " SELECT %(id)s, n, 'sevt_' || %(id)s || n, %(workspace)s, types[1 + n %% 10],"
            "        jsonb_build_object('model_request_start_id', 'sevt_' || %(id)s || n - 1),"
            "        'turn_' || %(id)s || (n / 10), n, now() FROM generate_series(1, %(events)s) AS n,"
            " (SELECT ARRAY['user.message', 'session.status_running', 'span.model_request_start',"
            "  'span.model_request_end', 'agent.message', 'agent.tool_use', 'agent.tool_result', 'agent.message',"
            "  'agent.message', 'session.status_idle'] AS types) AS t",
            {"id": session_id, "workspace": WORKSPACE, "events": EVENTS},
        )
        await connection.execute(
            "INSERT INTO tool_calls (id, workspace_id, session_id, turn_id, name, input, state, verdict)"
            " SELECT 'call_' || %(id)s || n, %(workspace)s, %(id)s, 'turn_' || %(id)s || n, 'bash', %(input)s,"
            " 'confirmed', 'allow' FROM generate_series(0, %(turns)s) AS n",
            {"id": session_id, "workspace": WORKSPACE, "turns": EVENTS // 10 - 1, "input": Jsonb({})},
        )
        await connection.execute("UPDATE sessions SET last_seq = %s WHERE id = %s", (EVENTS, session_id))
    async with database.transaction(WORKSPACE) as connection:
        await connection.execute("RESET ROLE")
        await connection.execute("ANALYZE events, tool_calls, turns, sessions")
    return session_id


class Counted:
    """A connection that asks Postgres how many rows each statement looked at."""

    def __init__(self, connection: Connection):
        self._connection = connection
        self.looked_at = 0

    async def execute(self, query: Any, parameters: Any = None) -> Any:
        if isinstance(query, str) and query.lstrip().startswith(("SELECT", "WITH")):
            explained = await self._connection.execute("EXPLAIN (ANALYZE, FORMAT JSON) " + query, parameters)
            row = await explained.fetchone()
            assert row is not None
            plan = row["QUERY PLAN"]
            self.looked_at += _rows((json.loads(plan) if isinstance(plan, str) else plan)[0]["Plan"])
        return await self._connection.execute(query, parameters)


def _rows(node: dict[str, Any]) -> int:
    own = (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"]
    return round(own) + sum(_rows(child) for child in node.get("Plans", []))


@pytest.mark.parametrize(
    "narrowed",
    [
        EventFilter(),
        EventFilter(beyond_seq=EVENTS // 2),
        EventFilter(order="desc"),
        EventFilter(order="desc", beyond_seq=EVENTS // 2),
        EventFilter(types=["agent.message"], beyond_seq=EVENTS // 2),
    ],
)
async def test_a_page_of_events_looks_at_a_page(database: Database, long_session: str, narrowed: EventFilter) -> None:
    async with database.transaction(WORKSPACE) as connection:
        counted = Counted(connection)
        found = await events.listing(counted, long_session, narrowed, limit=PAGE)  # pyright: ignore[reportArgumentType] - it executes as a connection does
    assert len(found) == PAGE
    assert counted.looked_at <= 12 * PAGE


async def test_a_stream_that_resumes_looks_at_what_it_sends(database: Database, long_session: str) -> None:
    async with database.transaction(WORKSPACE) as connection:
        counted = Counted(connection)
        found = await events.after(counted, long_session, EVENTS - 50)  # pyright: ignore[reportArgumentType] - as above
    assert (len(found), counted.looked_at <= 200) == (50, True)


async def test_the_steps_of_a_turn_do_not_look_at_the_whole_session(database: Database, long_session: str) -> None:
    turn = TurnInput(
        session_id=long_session, workspace_id=WORKSPACE, turn_id=f"turn_{long_session}{EVENTS // 10 - 1}"
    )
    async with database.transaction(WORKSPACE) as connection:
        counted: Any = Counted(connection)
        await journal.parked(counted, long_session)
        await queue.waiting(counted, long_session)
        await queue.more(counted, long_session)
        await queue.interrupt_waits(counted, turn)
        await settling.lose_requests(counted, turn)
        await sessions.listing(counted, SessionFilter(), limit=PAGE)
        await connection.rollback()
    assert counted.looked_at <= 20 * PAGE
