"""Embeddings of somebody else's endpoint: what it is told, and what becomes of an answer that is not as usual."""

import asyncio
import contextlib
import math
from collections.abc import AsyncGenerator
from datetime import UTC, datetime

import pytest
from pydantic import SecretStr

from controlplane.errors import UnavailableError
from controlplane.memory.embedding import EndpointEmbedder
from controlplane.memory.keeping import Upkeep
from controlplane.memory.preparation import LocalPreparer
from controlplane.store import memory_search, memory_stores, memory_vectors, memory_versions
from controlplane.store.memory_search import Search
from controlplane.store.memory_vectors import Vector
from controlplane.vault.keyring import Keyring, new_master_key
from tests.support.embeddings import FakeEmbeddings
from tests.support.memory import Mind, embedded
from workflows.connection import TemporalServer, connect

TOKEN = "ghp_" + "a1B2c3D4e5" * 3 + "f6G7h8"
MODEL = "words"


@pytest.fixture
async def endpoint(mind: Mind) -> AsyncGenerator[FakeEmbeddings]:
    """An endpoint whose model is the one that is searched with."""
    fake = FakeEmbeddings(96)
    async with fake.serving() as url:
        keyring = Keyring(text=SecretStr(new_master_key()))
        mind.preparer = LocalPreparer(mind.database, keyring, [EndpointEmbedder(MODEL, url, None)])
        async with mind.database.transaction("*") as connection:
            await memory_vectors.activate(connection, MODEL, dimension=96)
        yield fake
        await mind.preparer.close()


async def _found(mind: Mind, store_id: str, query: str) -> list[tuple[str | None, str]]:
    vector = await mind.preparer.question(mind.workspace_id, query)
    async with mind.database.transaction(mind.workspace_id) as connection:
        hits = await memory_search.search(connection, [store_id], Search(query=query), vector=vector)
    return [(hit.version.path, hit.reason) for hit in hits]


async def test_no_secret_leaves_with_a_memory_or_with_a_question(mind: Mind, endpoint: FakeEmbeddings):
    store = await mind.store()
    await mind.save(store, "/ada", f"Ada likes tea; her token is {TOKEN}")
    assert [path for path, _ in await _found(mind, store.id, f"who has the token {TOKEN}?")] == ["/ada"]
    assert len(endpoint.texts) == 2
    assert not [text for text in endpoint.texts if TOKEN in text]
    assert all("[redacted: GitHub Token]" in text for text in endpoint.texts)


async def test_a_vector_of_another_dimension_is_none_and_is_made_again(mind: Mind, endpoint: FakeEmbeddings):
    store = await mind.store()
    await mind.save(store, "/before", "Ada likes tea")
    endpoint.dimension = 64
    await mind.save(store, "/odd", "Ada likes cake")
    assert {path for path, _ in await _found(mind, store.id, "Ada likes")} == {"/before", "/odd"}
    endpoint.dimension = 96
    found = await _found(mind, store.id, "Ada likes cake")
    assert {path for path, _ in found} == {"/before", "/odd"}
    assert await mind.preparer.fill(MODEL, limit=10) == 1
    assert all("meaning" in reason for _, reason in await _found(mind, store.id, "Ada likes cake"))


async def test_vectors_of_a_model_that_had_another_dimension_are_made_again(mind: Mind, endpoint: FakeEmbeddings):
    store = await mind.store()
    await mind.save(store, "/ada", "Ada likes tea")
    endpoint.dimension = 64
    async with mind.database.transaction("*") as connection:
        await memory_vectors.activate(connection, MODEL, dimension=64)
        lacking = await memory_vectors.lacking(connection, MODEL, limit=10)
    assert [each.path for each in lacking] == ["/ada"]


async def _bare(mind: Mind, count: int, content: str = "tea") -> None:
    """Let a store have memories without vectors."""
    store = await mind.store()
    mind.preparer, kept = LocalPreparer(mind.database, Keyring(text=SecretStr(new_master_key())), []), mind.preparer
    for number in range(count):
        await mind.save(store, f"/{content}/{number}", content)
    mind.preparer = kept


async def _filled(mind: Mind, *, limit: int = 100) -> int:
    while await mind.preparer.fill(MODEL, limit=limit):
        pass
    return await mind.count("memory_vectors")


async def test_a_text_that_the_endpoint_refuses_keeps_no_other_from_its_vector(mind: Mind, endpoint: FakeEmbeddings):
    await _bare(mind, 10)
    await _bare(mind, 3, "unspeakable")
    endpoint.refused = "unspeakable"
    endpoint.odd = {"/7": []}
    assert await _filled(mind, limit=2) == 10
    assert len([text for text in endpoint.texts if "unspeakable" in text]) < 12
    async with mind.database.transaction("*") as connection:
        await connection.execute("UPDATE memory_vectorless SET refused_at = now() - interval '2 hours'")
    endpoint.refused = None
    assert await _filled(mind) == 13


async def test_an_endpoint_that_refuses_all_is_asked_for_all_again(mind: Mind, endpoint: FakeEmbeddings):
    await _bare(mind, 3)
    endpoint.refused = ""
    with pytest.raises(UnavailableError):
        await mind.preparer.fill(MODEL, limit=10)
    endpoint.refused = None
    assert await _filled(mind) == 3


@pytest.mark.parametrize("values", [[], [math.nan] * 96, [1e300] * 96, [0.0] * 96, [1.0] * 20_000])
async def test_a_vector_that_postgres_cannot_keep_is_none(mind: Mind, endpoint: FakeEmbeddings, values: list[float]):
    endpoint.odd = {"odd": values}
    async with mind.database.transaction("*") as connection:
        await connection.execute("DELETE FROM memory_models")
    store = await mind.store()
    await mind.save(store, "/x", "something odd")
    assert [path for path, _ in await _found(mind, store.id, "something odd")] == ["/x"]
    assert await mind.count("memory_vectors") == 0


@pytest.mark.parametrize("redacted_first", [True, False])
async def test_no_vector_outlives_a_redaction(mind: Mind, *, redacted_first: bool):
    store = await mind.store()
    memory = await mind.save(store, "/x", "ada's")
    await mind.overwrite(memory, "new")
    async with mind.database.transaction("*") as connection:
        await connection.execute("DELETE FROM memory_vectors")
    vector = Vector(model="wordllama", values=[1.0] * 256)

    async def redact() -> None:
        async with mind.database.transaction(mind.workspace_id) as connection:
            await memory_versions.redact(connection, store.id, memory.version_id, by=None)
            await _other_waits(mind, first=redacted_first)

    async def put() -> None:
        async with mind.database.transaction(mind.workspace_id) as connection:
            where = {"version_id": memory.version_id, "store_id": store.id, "workspace_id": mind.workspace_id}
            await memory_vectors.put(connection, vector, **where)
            await _other_waits(mind, first=not redacted_first)

    first, second = (redact, put) if redacted_first else (put, redact)
    running = asyncio.create_task(first())
    await asyncio.sleep(0.05)
    await asyncio.gather(running, second())
    assert await mind.count("memory_vectors") == 0


async def _other_waits(mind: Mind, *, first: bool) -> None:
    """Keep a transaction open until another one waits for it, or for what would be long enough."""
    for _ in range(20 if first else 0):
        async with mind.database.transaction("*") as connection:
            found = await connection.execute("SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
            if await found.fetchone():
                return
        await asyncio.sleep(0.05)


@pytest.mark.slow
async def test_a_model_that_is_gone_keeps_nothing_from_moving_to_another(mind: Mind, temporal_address: str):
    store = await mind.store()
    async with mind.database.transaction("*") as connection:
        await memory_vectors.activate(connection, "gone", dimension=96)
    await mind.save(store, "/x", "something")
    client = await connect(TemporalServer(temporal_address))
    for preparer in (mind.preparer, await _with(mind, EndpointEmbedder("gone", "http://127.0.0.1:9/v1", None))):
        upkeep = Upkeep(mind.database, preparer, client)
        with contextlib.suppress(UnavailableError):
            await upkeep.look()
        handle = client.get_workflow_handle("reembed-wordllama")
        assert (await handle.describe()).status is not None
        await handle.terminate()


async def _with(mind: Mind, other: EndpointEmbedder) -> LocalPreparer:
    return LocalPreparer(mind.database, Keyring(text=SecretStr(new_master_key())), [embedded(), other])


async def test_a_store_that_is_deleted_while_it_expires_is_no_trouble(mind: Mind, temporal_address: str):
    store, other = await mind.store(), await mind.store(name="other")
    past = datetime(2020, 1, 1, tzinfo=UTC)
    await mind.save(store, "/x", "old", expires_at=past)
    await mind.save(other, "/y", "old", expires_at=past)
    upkeep = Upkeep(mind.database, mind.preparer, await connect(TemporalServer(temporal_address)))
    async with mind.database.transaction(mind.workspace_id) as connection:
        await memory_stores.delete(connection, store.id)
        looking = asyncio.create_task(upkeep.look())
        await _other_waits(mind, first=True)
    await looking
    assert await mind.count("memories") == 0
