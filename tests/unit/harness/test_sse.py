"""Server-sent events, however the bytes are cut."""

from collections.abc import AsyncGenerator

import pytest

from harness_adapters.model.sse import ServerSentEvent, events

STREAM = (
    "event: a\r\ndata: é 1\r\n\r\n: a comment\n\ndata:two\ndata: lines\nid: 7\n\nevent: no data\n\ndata: cut".encode()
)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
async def test_events_come_whole_whatever_the_chunks(size: int):
    async def chunks() -> AsyncGenerator[bytes]:
        for start in range(0, len(STREAM), size):
            yield STREAM[start : start + size]

    assert [event async for event in events(chunks())] == [
        ServerSentEvent("a", "é 1"),
        ServerSentEvent("", "two\nlines"),
    ]
