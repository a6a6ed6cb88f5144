"""Memory at size: 100,000 memories in 1,000 stores."""

import asyncio
import json
import random
import time

import numpy
import psutil
import psycopg

from controlplane.embedded.postgres import EmbeddedPostgres
from controlplane.memory.recall import Recall
from controlplane.memory.remote import RemotePreparer
from controlplane.store.pool import Database
from tests.bench.figures import Figure, figure
from tests.bench.plane import Bench
from tests.support.watch import Watcher

STORES = 1_000
EACH = 100
BLOCKS = 6
_SESSIONS = 20
_DIMENSION = 256
_WORKSPACE = "wrkspc_default"
_NAMES = (
    "Maren",
    "Tobias",
    "Yusuf",
    "Priya",
    "Lotte",
    "Hiro",
    "Camille",
    "Ngozi",
    "Pavel",
    "Ingrid",
    "DeShawn",
    "Wen",
)
_VERBS = ("prefers", "avoids", "ordered", "moved", "broke", "repaired", "forgot", "promised", "measured", "painted")
_THINGS = ("the blue kettle", "night trains", "paper invoices", "the old broker", "rye bread", "the salt spray test")
_PLACES = ("in Oslo", "before lunch", "for the harbour office", "since the audit", "on Fridays", "without sugar")


async def measure(bench: Bench, times: int) -> list[Figure]:
    """What a session's start, a save and a search take."""
    postgres = EmbeddedPostgres(bench.stack.data_dir / "postgres")
    url = postgres.url()
    await asyncio.to_thread(_fill, url)
    chance = random.Random(7)
    brain = psutil.Process(bench.stack.parts()["brain"])
    for _ in range(_SESSIONS):
        await _session(bench, None)
    without = brain.memory_info().rss
    sessions = [await _session(bench, f"memstore_bench{chance.randrange(STORES):05}") for _ in range(_SESSIONS)]
    grown = (brain.memory_info().rss - without) / 2**20
    ports = json.loads((bench.stack.data_dir / "run" / "ports.json").read_text())
    preparer = RemotePreparer(f"http://127.0.0.1:{ports['memory']}")
    database = Database(url)
    await database.open()
    found = [
        *await _reconstructions(Recall(database, preparer), sessions, times * 4),
        *await _saves(bench, chance, times * 4),
        *await _searches(bench, chance, times * 4),
    ]
    await preparer.close()
    await database.close()
    floor = f"after {_SESSIONS} sessions without memory {without / 2**20:.0f} MB"
    return [*found, figure("brain: RSS that memory adds", [grown], unit="MB", goal="≤ 5", floor=floor)]


async def _reconstructions(recall: Recall, sessions: list[str], times: int) -> list[Figure]:
    taken: list[float] = []
    for number in range(times):
        session_id = sessions[number % len(sessions)]
        began = time.perf_counter()
        section = await recall.section(_WORKSPACE, session_id)
        taken.append((time.perf_counter() - began) * 1000)
        assert section.count("<block ") == BLOCKS and section.count("\n- ") == 10
    return [figure("memory of a session's start, blocks and top 10", taken, goal="≤ 15 p50, ≤ 50 p95")]


async def _saves(bench: Bench, chance: random.Random, times: int) -> list[Figure]:
    taken: list[float] = []
    for number in range(times):
        url = f"/v1/memory_stores/memstore_bench{chance.randrange(STORES):05}/memories"
        body = {"path": f"/new/{number}", "content": _sentence(chance)}
        began = time.perf_counter()
        (await bench.http.post(url, json=body)).raise_for_status()
        taken.append((time.perf_counter() - began) * 1000)
    return [figure("memory saved, over the API", taken, goal="≤ 20 p50")]


async def _searches(bench: Bench, chance: random.Random, times: int) -> list[Figure]:
    taken: list[float] = []
    for _ in range(times):
        url = f"/v1/memory_stores/memstore_bench{chance.randrange(STORES):05}/search"
        body = {"query": f"What did {chance.choice(_NAMES)} say about {chance.choice(_THINGS)}?"}
        began = time.perf_counter()
        (await bench.http.post(url, json=body)).raise_for_status()
        taken.append((time.perf_counter() - began) * 1000)
    return [figure("memory searched, over the API", taken, goal="≤ 40 p95")]


async def _session(bench: Bench, store_id: str | None) -> str:
    session_id = await bench.session()
    if store_id is not None:
        attached = {"type": "memory_store", "memory_store_id": store_id}
        (await bench.http.post(f"/v1/sessions/{session_id}/resources", json=attached)).raise_for_status()
    text = "What has Priya promised, and who avoids the blue kettle?"
    event = {"type": "user.message", "content": [{"type": "text", "text": text}]}
    (await bench.http.post(f"/v1/sessions/{session_id}/events", json={"events": [event]})).raise_for_status()
    async with Watcher(bench.stack.url, bench.stack.api_key, session_id) as watcher:
        await watcher.until_idle()
    return session_id


def _sentence(chance: random.Random) -> str:
    parts = [f"{chance.choice(_NAMES)} {chance.choice(_VERBS)} {chance.choice(_THINGS)} {chance.choice(_PLACES)}"]
    return ". ".join([*parts, f"Note {chance.randrange(10**6)} of {chance.choice(_NAMES)}."])


def _fill(url: str) -> None:
    """Put rows there directly, as saves would have."""
    chance = random.Random(1)
    vectors = numpy.random.default_rng(1).standard_normal((STORES * EACH, _DIMENSION), dtype=numpy.float32)
    vectors /= numpy.linalg.norm(vectors, axis=1, keepdims=True)
    with psycopg.connect(url) as connection:
        cursor = connection.cursor()
        with cursor.copy(
            "COPY memory_stores (id, workspace_id, name, max_memories, max_bytes, memories, bytes) FROM STDIN"
        ) as copy:
            for store in range(STORES):
                copy.write_row((f"memstore_bench{store:05}", _WORKSPACE, "s", 10**6, 10**9, EACH, EACH * 90))
        with cursor.copy(
            "COPY memory_versions (id, workspace_id, store_id, memory_id, version, operation, path, content, sha256,"
            " size_bytes, memory_type, held_from) FROM STDIN"
        ) as copy:
            for store in range(STORES):
                for number in range(EACH):
                    kind = "facts" if number < BLOCKS else None
                    row = (f"memver_b{store:05}x{number:03}", _WORKSPACE, f"memstore_bench{store:05}")
                    row += (f"mem_b{store:05}x{number:03}", 1, "created", f"/m/{number:03}", _sentence(chance))
                    copy.write_row((*row, "0" * 64, 90, kind, "2024-01-01"))
        connection.execute(
            "INSERT INTO memories (id, workspace_id, store_id, path, version, version_id, content, sha256,"
            " size_bytes, memory_type, created_at, updated_at) SELECT memory_id, workspace_id, store_id, path, 1, id,"
            " content, sha256, size_bytes, memory_type, held_from, held_from FROM memory_versions"
            " WHERE store_id LIKE 'memstore_bench%'"
        )
        with cursor.copy(
            "COPY memory_vectors (version_id, model, dimension, workspace_id, store_id, embedding) FROM STDIN"
        ) as copy:
            for place, vector in enumerate(vectors):
                store, number = divmod(place, EACH)
                text = "[" + ",".join(f"{value:.4g}" for value in vector) + "]"
                row = (f"memver_b{store:05}x{number:03}", "wordllama", _DIMENSION, _WORKSPACE)
                copy.write_row((*row, f"memstore_bench{store:05}", text))
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("ANALYZE")
