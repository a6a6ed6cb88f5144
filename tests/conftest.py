"""Real parts for every test: one Postgres and one Temporal for the run, a fresh migrated database where asked."""

import asyncio
import itertools
from collections.abc import AsyncGenerator, Generator
from typing import Any

import pytest

from controlplane.embedded.postgres import EmbeddedPostgres
from controlplane.embedded.temporal import EmbeddedTemporal
from controlplane.store.migrate import migrate
from controlplane.store.pool import Database
from tests.support.bait import Bait, baited
from tests.support.stack import Stack

_TEMPLATE = "migrated"
_numbers = itertools.count(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add what `make soak` asks for."""
    parser.addoption("--in-full", action="store_true", help="the largest numbers: 200 containers, bodies of 10 GB")


@pytest.fixture(scope="session")
def in_full(request: pytest.FixtureRequest) -> bool:
    """Whether there is time for the largest numbers."""
    return bool(request.config.getoption("--in-full"))


@pytest.fixture(scope="session")
async def postgres(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[EmbeddedPostgres]:
    """An embedded Postgres server."""
    server = EmbeddedPostgres(tmp_path_factory.mktemp("postgres"))
    process = await server.start()
    await server.wait_ready(process)
    yield server
    await server.stop(process)


@pytest.fixture(scope="session")
async def migrated_template(postgres: EmbeddedPostgres) -> str:
    """The name of a database that has every migration; copies of it are cheap."""
    await postgres.create_database(_TEMPLATE)
    await asyncio.to_thread(migrate, postgres.url(_TEMPLATE))
    return _TEMPLATE


@pytest.fixture
async def database_url(postgres: EmbeddedPostgres, migrated_template: str) -> AsyncGenerator[str]:
    """The URL of a fresh migrated database."""
    name = f"test_{next(_numbers)}"
    await postgres.create_database(name, template=migrated_template)
    yield postgres.url(name)
    await postgres.drop_database(name)


@pytest.fixture
async def database(database_url: str) -> AsyncGenerator[Database]:
    """An open pool on a fresh migrated database."""
    opened = Database(database_url)
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture(scope="session")
async def temporal_address(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[str]:
    """The address of a Temporal development server."""
    server = EmbeddedTemporal(tmp_path_factory.mktemp("temporal"))
    process = await server.start()
    await server.wait_ready(process)
    yield server.address
    await server.stop(process)


_BAIT = pytest.StashKey[Bait]()


@pytest.fixture(scope="session")
async def stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Stack]:
    """The whole control plane as `bulkhead up` runs it; the end of its output is shown when a test fails.

    Its vault has a canary, which every session of `Client` may use; it is searched for when all tests are through.
    """
    async with baited(tmp_path_factory.mktemp("stack")) as bait:
        request.config.stash[_BAIT] = bait
        yield bait.stack


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    """Add the output of the running stack to the report of a failed test that uses it."""
    report = yield
    if report.failed and "stack" in getattr(item, "fixturenames", ()) and _BAIT in item.config.stash:
        report.sections.append(("output of `bulkhead up`", item.config.stash[_BAIT].stack.tail()))
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say what the search for the canaries came to."""
    if _BAIT in config.stash:
        terminalreporter.write_line(f"canaries: {config.stash[_BAIT].seeker.summary()}")
