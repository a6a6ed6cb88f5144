"""Search in a store that has grown beyond what is compared one by one."""

import numpy
import pytest
from temporalio.client import Client

from controlplane.memory.keeping import Upkeep
from controlplane.store import memory_search, memory_vectors
from controlplane.store.memory_search import EXACT_UP_TO, Search
from controlplane.store.memory_vectors import Vector
from tests.support.memory import Mind
from workflows.connection import TemporalServer, connect

_NEIGHBOURS = 10
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


async def _client(address: str) -> Client:
    return await connect(TemporalServer(address))


async def _nearest(mind: Mind, store_id: str, vector: Vector) -> list[str]:
    wanted = Search(query="-", limit=_NEIGHBOURS)
    async with mind.database.transaction(mind.workspace_id) as connection:
        hits = await memory_search.search(connection, [store_id], wanted, vector=vector, words=False)
    return [hit.version.id for hit in hits]


@pytest.mark.thorough
async def test_a_store_that_has_grown_large_is_indexed_and_found_in_as_before(mind: Mind, temporal_address: str):
    store, small = await mind.store(), await mind.store(name="small")
    size = EXACT_UP_TO + 200
    chance = numpy.random.default_rng(3)
    centres = chance.standard_normal((50, 256))
    values = centres[chance.integers(0, 50, size)] + 0.4 * chance.standard_normal((size, 256))
    async with mind.database.transaction(mind.workspace_id) as connection:
        await connection.execute(
            "INSERT INTO memory_versions (id, workspace_id, store_id, memory_id, version, operation, path, content,"
            " sha256, size_bytes, held_from) SELECT 'memver_' || n, %s, %s, 'mem_' || n, 1, 'created', '/' || n,"
            " 'x', '', 1, now() FROM generate_series(1, %s) n",
            (mind.workspace_id, store.id, size),
        )
        await connection.execute("UPDATE memory_stores SET memories = %s WHERE id = %s", (size, store.id))
        for number, value in enumerate(values, start=1):
            made = Vector(model="wordllama", values=value.tolist())
            where = {"version_id": f"memver_{number}", "store_id": store.id, "workspace_id": mind.workspace_id}
            await memory_vectors.put(connection, made, **where)
    await mind.save(small, "/x", "Ada waits")
    questions = [Vector(model="wordllama", values=value.tolist()) for value in values[:20] + 0.1]
    before = [await _nearest(mind, store.id, question) for question in questions]
    await Upkeep(mind.database, mind.preparer, await _client(temporal_address)).look()
    async with mind.database.transaction(mind.workspace_id) as connection:
        cursor = await connection.execute("SELECT store_id, indexed, count(*) AS n FROM memory_vectors GROUP BY 1, 2")
        found = {(row["store_id"], row["indexed"]): row["n"] for row in await cursor.fetchall()}
    assert found == {(store.id, True): size, (small.id, False): 1}
    after = [await _nearest(mind, store.id, question) for question in questions]
    assert all(len(each) == _NEIGHBOURS for each in after)
    same = [len({*first} & {*second}) / _NEIGHBOURS for first, second in zip(before, after, strict=True)]
    assert sum(same) / len(same) >= 0.9
