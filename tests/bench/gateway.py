"""What the model gateway adds to the first byte of an answer: both ways in turn, on the same busy machine."""

import hashlib
import os
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import psycopg
from psycopg.types.json import Jsonb

from controlplane.ids import new_id
from tests.bench.figures import Figure, figure, said
from tests.bench.plane import Bench
from tests.bench.provider import SLOWLY
from tests.support.places import environment_of

_MODEL = "bench/model"


async def first_bytes(bench: Bench, times: int) -> list[Figure]:
    """Milliseconds to the first byte of a streamed answer, through the gateway and without it."""
    environment = environment_of(bench.stack.parts()["api"])
    token = await _running_turn(environment["BULKHEAD_DATABASE_URL"], await bench.session())
    through = f"http://127.0.0.1:{environment['BULKHEAD_GATEWAY_PORT']}/v1/messages"
    direct = f"{bench.provider.url}/v1/messages"
    passed: list[float] = []
    bare: list[float] = []
    flushes: list[float] = []
    async with httpx.AsyncClient(trust_env=False) as http:
        for _ in range(times + 5):
            bare.append(await _first_byte(http, direct, {}))
            passed.append(await _first_byte(http, through, {"x-api-key": token}))
            flushes.append(_flush(bench.stack.data_dir))
    added = [way - floor for way, floor in zip(passed[5:], bare[5:], strict=True)]
    floor = f"{said(bare[5:], 'direct')}, {said(flushes[5:], 'a flush to disk')}"
    return [figure("first byte, added by the gateway", added, goal="≤ 2 p50", floor=floor)]


def _flush(folder: Path) -> float:
    """Milliseconds in which a page reaches the disk: a reservation is there before its request is sent."""
    with (folder / "flushed").open("ab") as file:
        file.write(bytes(8192))
        file.flush()
        began = time.perf_counter()
        os.fdatasync(file.fileno())
        return (time.perf_counter() - began) * 1000


async def _first_byte(http: httpx.AsyncClient, url: str, headers: Mapping[str, str]) -> float:
    messages = [{"role": "user", "content": SLOWLY}]
    body: dict[str, Any] = {"model": _MODEL, "max_tokens": 8, "stream": True, "messages": messages}
    began = time.perf_counter()
    async with http.stream("POST", url, json=body, headers=headers) as answer:
        pieces = answer.aiter_raw()
        await anext(pieces)
        took = (time.perf_counter() - began) * 1000
        async for _ in pieces:
            pass
    assert answer.status_code == 200
    return took


async def _running_turn(database_url: str, session_id: str) -> str:
    """Have a turn of a session run that no brain knows of, and return its token."""
    token = secrets.token_urlsafe()
    async with await psycopg.AsyncConnection.connect(database_url) as connection:
        await connection.execute(
            "INSERT INTO turns (id, workspace_id, session_id, model_token_hash, models)"
            " SELECT %s, workspace_id, id, %s, %s FROM sessions WHERE id = %s",
            (new_id("turn"), hashlib.sha256(token.encode()).digest(), Jsonb([_MODEL]), session_id),
        )
    return token
