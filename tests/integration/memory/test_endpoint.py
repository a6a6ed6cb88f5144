"""Embeddings of somebody else's endpoint: what it is told, and what becomes of an answer that is not as usual."""

from collections.abc import AsyncGenerator

import pytest
from pydantic import SecretStr

from controlplane.memory.embedding import EndpointEmbedder
from controlplane.memory.preparation import LocalPreparer
from controlplane.store import memory_search, memory_vectors
from controlplane.store.memory_search import Search
from controlplane.vault.keyring import Keyring, new_master_key
from tests.support.embeddings import FakeEmbeddings
from tests.support.memory import Mind

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
