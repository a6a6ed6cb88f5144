"""The server and what runs beside it."""

import asyncio

import pytest
import uvicorn
from fastapi import FastAPI

from controlplane.api.server import serve_beside
from controlplane.health import Health
from controlplane.settings import Settings


def server() -> uvicorn.Server:
    return uvicorn.Server(uvicorn.Config(FastAPI(), host="127.0.0.1", port=0, log_config=None))


async def test_what_fails_in_the_background_ends_the_server():
    async def fails() -> None:
        raise LookupError("gone")

    async with asyncio.timeout(20):
        with pytest.raises(LookupError, match="gone"):
            await serve_beside(server(), Health(Settings()), fails())


async def test_what_ends_in_the_background_ends_the_server():
    async def ends() -> None:
        return

    async with asyncio.timeout(20):
        with pytest.raises(RuntimeError, match=r"ends.* has ended"):
            await serve_beside(server(), Health(Settings()), ends())


async def test_the_background_ends_with_the_server():
    serving, stopped = server(), asyncio.Event()

    async def goes_on() -> None:
        serving.should_exit = True
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    await serve_beside(serving, Health(Settings()), goes_on())
    assert stopped.is_set()
