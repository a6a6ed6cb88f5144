"""Files that a message or a client's result refers to reach the model, in either wire format."""

import base64
import hashlib
import json
from collections.abc import AsyncIterator
from typing import Any, Literal

import pytest
from psycopg.types.json import Jsonb
from starlette.responses import JSONResponse

from controlplane.settings import ModelProvider
from controlplane.store import events, files
from controlplane.store.conversation import MAX_BYTES
from controlplane.store.events import NewEvent
from controlplane.store.pool import Database
from controlplane.store.turns import PostgresTurns
from harness_adapters.builtin import BuiltinHarness
from tests.integration.models.conftest import OpenGateway
from tests.integration.models.fake_provider import fake_provider
from tests.integration.models.test_builtin import Hands
from workflows.contracts import TurnInput
from workflows.records import TurnStart

WORKSPACE = "wrkspc_default"
PICTURE = b"\x89PNG" + bytes(range(256)) * 5000
PAGES = b"%PDF-1.7 \xff\x00"
NOTES = "Grüße aus der Datei".encode()

Format = Literal["anthropic", "openai"]


async def keep(database: Database, name: str, mime_type: str, content: bytes) -> str:
    """Keep a file and return its id."""

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(content), files.CHUNK_BYTES):
            yield content[start : start + files.CHUNK_BYTES]

    new = files.NewFile(
        filename=name, mime_type=mime_type, size_bytes=len(content), sha256=hashlib.sha256(content).digest()
    )
    async with database.transaction(WORKSPACE) as connection:
        return (await files.create(connection, WORKSPACE, file=new, chunks=chunks())).id


def attached(kind: str, file_id: str) -> dict[str, Any]:
    return {"type": kind, "source": {"type": "file", "file_id": file_id}}


async def said(database: Database, *new: NewEvent) -> None:
    """Record events of the one session there is, in which a turn runs."""
    async with database.transaction(WORKSPACE) as connection:
        await connection.execute("UPDATE sessions SET agent = %s", (Jsonb({"model": {"id": "seen/model"}}),))
        found = await (await connection.execute("SELECT id FROM sessions")).fetchone()
        assert found is not None
        await events.append(connection, found["id"], list(new))


async def begun(database: Database, gateway_url: str) -> TurnStart:
    """Begin the next attempt of the turn."""
    async with database.transaction(WORKSPACE) as connection:
        found = await (
            await connection.execute("SELECT id, session_id FROM turns ORDER BY started_at LIMIT 1")
        ).fetchone()
    assert found is not None
    turn = TurnInput(session_id=found["session_id"], workspace_id=WORKSPACE, turn_id=found["id"])
    start = await PostgresTurns(database, gateway_url=gateway_url).begin(turn, worker_id="wrk_1", task_token=b"")
    assert isinstance(start, TurnStart)
    return start


async def shown(database: Database, open_gateway: OpenGateway, harness: BuiltinHarness, wire: Format) -> list[Any]:
    """Run the turn against a provider that refuses, and return the messages that this one was sent."""
    refusal = JSONResponse({"error": {"type": "invalid_request_error", "message": "enough"}}, status_code=400)
    async with fake_provider(refusal) as fake:
        provider = ModelProvider(format=wire, base_url=fake.url, models=["seen/*"])
        async with open_gateway({"fake": provider}) as gateway:
            yielded = await begun(database, gateway.url)
            _ = [event async for event in harness.run_turn(yielded.spec, yielded.history, Hands())]
    return json.loads(fake.asked[0].body)["messages"]


@pytest.fixture
async def conversation(database: Database, gateway: object) -> None:
    """A message with a picture, pages and notes, and a client's result with the picture."""
    picture = await keep(database, "p.png", "image/png", PICTURE)
    pages = await keep(database, "pages.pdf", "application/pdf", PAGES)
    notes = await keep(database, "notes.md", "text/markdown; charset=utf-8", NOTES)
    asks = [attached("image", picture), attached("document", pages), attached("document", notes)]
    use = NewEvent(
        type="agent.custom_tool_use", payload={"name": "look", "input": {}}, internal={"request_id": "sevt_r"}
    )
    result = {"custom_tool_use_id": use.id, "content": [attached("image", picture), attached("document", notes)]}
    await said(
        database,
        NewEvent(type="user.message", payload={"content": asks}),
        use,
        NewEvent(type="user.custom_tool_result", payload=result),
    )


def encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


@pytest.mark.usefixtures("conversation")
async def test_files_reach_the_model_in_anthropics_format(
    database: Database, open_gateway: OpenGateway, harness: BuiltinHarness
) -> None:
    asked, _, answered = await shown(database, open_gateway, harness, "anthropic")
    picture = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": encoded(PICTURE)}}
    pages = {"type": "base64", "media_type": "application/pdf", "data": encoded(PAGES)}
    notes = {"type": "text", "media_type": "text/plain", "data": NOTES.decode()}
    notes_block = {"type": "document", "source": notes, "title": "notes.md"}
    assert asked["content"] == [
        picture,
        {"type": "document", "source": pages, "title": "pages.pdf"},
        notes_block,
    ]
    assert answered["content"][0]["content"] == [picture, notes_block]


@pytest.mark.usefixtures("conversation")
async def test_files_reach_the_model_in_openais_format(
    database: Database, open_gateway: OpenGateway, harness: BuiltinHarness
) -> None:
    asked, _, result, after = await shown(database, open_gateway, harness, "openai")
    picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{encoded(PICTURE)}"}}
    pages = {"filename": "pages.pdf", "file_data": f"data:application/pdf;base64,{encoded(PAGES)}"}
    notes = {"type": "text", "text": f"[document 'notes.md']\n{NOTES.decode()}"}
    assert asked["content"] == [picture, {"type": "file", "file": pages}, notes]
    assert NOTES.decode() in result["content"]
    assert after["content"] == [picture]


async def test_what_is_gone_too_large_or_of_another_kind_is_a_note(
    database: Database, open_gateway: OpenGateway
) -> None:
    async with open_gateway({}):
        gone = await keep(database, "gone.txt", "text/plain", NOTES)
        binary = await keep(database, "a.bin", "application/octet-stream", NOTES)
        large = await keep(database, "large.txt", "text/plain", b"x" * (MAX_BYTES - len(NOTES) + 1))
        small = await keep(database, "small.txt", "text/plain", NOTES)
        refers = [[attached("document", each)] for each in (large, gone, binary, small)]
        await said(database, *(NewEvent(type="user.message", payload={"content": blocks}) for blocks in refers))
        async with database.transaction(WORKSPACE) as connection:
            await files.delete(connection, gone)
        start = await begun(database, "http://127.0.0.1:1")
    shown = [block.model_dump() for item in start.history for block in getattr(item, "content", [])]
    assert shown[0]["source"] == {"type": "file", "file_id": large}
    assert shown[1] == {"type": "text", "text": f"[document {gone!r}: the file has been deleted]"}
    assert shown[2]["source"] == {"type": "file", "file_id": binary}
    assert shown[3]["source"]["data"] == NOTES.decode()
