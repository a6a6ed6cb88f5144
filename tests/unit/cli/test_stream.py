"""A session's events as the command line reads them."""

import asyncio
import json
from pathlib import Path

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from controlplane.cli.server import Server
from controlplane.cli.stream import Frame, follow
from controlplane.models.listening import listening

SAID = {"type": "agent.message", "text": "one\u2028two\u2029three\x85four\x0bfive é 😀"}
GONE = {"type": "session.deleted"}


async def serve(scope: Scope, receive: Receive, send: Send) -> None:
    """Say something with every kind of line's end in it, and that the session is gone."""
    frames = [
        f"id: {seq}\nevent: {event['type']}\ndata: {json.dumps(event, ensure_ascii=False)}\n\n"
        for seq, event in ((7, SAID), (8, GONE))
    ]
    answer = Response(": connected\n\n" + "".join(frames), media_type="text/event-stream")
    await answer(scope, receive, send)


async def test_a_text_may_have_any_line_end_in_it(tmp_path: Path) -> None:
    (tmp_path / "api-key").write_text("key")
    async with listening(serve) as url:
        server = Server(url, tmp_path, as_json=True)
        found = await asyncio.to_thread(lambda: list(follow(server, "sesn_1", after=0)))
        server.client.close()
    assert found == [Frame(7, SAID), Frame(8, GONE)]
