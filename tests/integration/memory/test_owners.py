"""What one owner's calls answer does not depend on what another one keeps."""

import random
import re
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from controlplane.embedded.postgres import EmbeddedPostgres
from controlplane.store import memory_search
from controlplane.store.memory_search import Search
from controlplane.store.memory_stores import StoreRecord
from controlplane.store.pool import Database
from tests.support.memory import Mind

_IDS = re.compile(r"[a-z]+_[0-9a-z]{26}|\d{4}-\d\d-\d\dT[0-9:.+]+")
WORDS = [
    "peanut",
    "harbour",
    "invoice",
    "kettle",
    "otter",
    "migraine",
    "bonus",
    "divorce",
    "walrus",
    "launch",
    "code",
    "salary",
]
PATHS = ("/a.md", "/b/c.md", "/secret.md", "/blocks/persona")


@pytest.fixture
async def minds(postgres: EmbeddedPostgres, migrated_template: str) -> AsyncGenerator[list[Mind]]:
    """Two databases that are the same so far."""
    names = ["owners_1", "owners_2"]
    databases: list[Database] = []
    for name in names:
        await postgres.create_database(name, template=migrated_template)
        databases.append(Database(postgres.url(name)))
        await databases[-1].open()
    yield [Mind(database) for database in databases]
    for name, database in zip(names, databases, strict=True):
        await database.close()
        await postgres.drop_database(name)


def _sentence(chance: random.Random) -> str:
    return " ".join(chance.choice(WORDS) for _ in range(6))


def _call(chance: random.Random, others: str) -> tuple[str, dict[str, Any]]:
    path, content = chance.choice(PATHS), _sentence(chance)
    store = {"store": others} if chance.random() < 0.15 else {}
    version = chance.randrange(3)
    return chance.choice(
        [
            ("search_memory", {"query": content, "limit": chance.choice([1, 5, 50]), **store}),
            ("search_memory", {"query": chance.choice(WORDS)[:-1] + "x", **store}),
            ("search_memory", {"query": "walrus", "path_prefix": "/secret", "as_of": "2024-01-01"}),
            ("memory_read", {"path": chance.choice([path, "/", "/b/"]), **store}),
            ("save_memory", {"path": path, "content": content, **store}),
            ("save_memory", {"path": path, "content": content, "version": version, "supersedes": "/secret.md"}),
            ("memory_update", {"path": path, "patch": {"text": content}, "version": version, **store}),
            ("memory_forget", {"path": path, **store}),
        ]
    )


async def _heard(mind: Mind, seed: int, others: str) -> list[str]:
    """Return what one owner hears while another keeps what ``others`` seeds."""
    mine, theirs = await mind.store(name=f"mine {seed}"), await mind.store(name=f"theirs {seed}")
    chance = random.Random(others)
    for number in range(chance.randrange(1, 30)):
        await mind.save(theirs, f"/{number}/secret.md", _sentence(chance), supersedes=chance.choice([None, "/a.md"]))
    for path in chance.sample(PATHS, chance.randrange(len(PATHS))):
        await mind.save(theirs, path, _sentence(chance))
    session_id = await mind.session(mine)
    await mind.session(theirs)
    calls = random.Random(seed)
    told = [
        await mind.use(session_id, name, **value) for name, value in [_call(calls, theirs.name) for _ in range(12)]
    ]
    told += [await _scores(mind, mine, _sentence(calls)) for _ in range(3)]
    return [_IDS.sub("ID", each) for each in told]


async def _scores(mind: Mind, store: StoreRecord, query: str) -> str:
    """Return what a search over the API says, to the last digit."""
    vector = await mind.preparer.question(mind.workspace_id, query)
    async with mind.database.transaction(mind.workspace_id) as connection:
        hits = await memory_search.search(connection, [store.id], Search(query=query), vector=vector)
    return repr([(hit.version.path, hit.score, hit.reason) for hit in hits])


@pytest.mark.parametrize(
    "seeds",
    [
        range(4),
        pytest.param(range(4, 16), marks=pytest.mark.slow),
        pytest.param(range(16, 60), marks=[pytest.mark.slow, pytest.mark.thorough]),
    ],
)
@pytest.mark.timeout(1200)
async def test_no_sequence_of_calls_tells_what_another_owner_keeps(minds: list[Mind], seeds: range):
    for seed in seeds:
        first = await _heard(minds[0], seed, f"one {seed}")
        second = await _heard(minds[1], seed, f"two {seed}")
        assert first == second, seed
