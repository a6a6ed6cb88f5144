"""Tiny deltas become fewer, and nothing is lost, reordered or kept waiting."""

import asyncio
from collections.abc import AsyncGenerator

from harness_adapters.contract import PreviewStarted, TextDelta, Usage
from harness_adapters.model.answer import Complete, Preview
from harness_adapters.model.pace import FLUSH_CHARS, paced

END = Complete([], Usage(), "end_turn")


def _text(text: str, event_id: str = "a") -> TextDelta:
    return TextDelta(event_id=event_id, text=text)


async def _stream(*pieces: Preview | Complete) -> AsyncGenerator[Preview | Complete]:
    for piece in pieces:
        yield piece


async def test_a_burst_becomes_few_deltas_with_the_same_text():
    came = [piece async for piece in paced(_stream(*[_text("x") for _ in range(1000)], END))]
    deltas = [piece for piece in came if isinstance(piece, TextDelta)]
    assert sum(len(delta.text) for delta in deltas) == 1000
    assert len(deltas) < 20
    assert all(len(delta.text) <= FLUSH_CHARS for delta in deltas)
    assert came[-1] is END


async def test_texts_of_different_events_are_not_mixed_and_keep_their_order():
    second = PreviewStarted(event_id="b", event_type="agent.message")
    pieces = [_text("1"), _text("2"), second, _text("3", "b"), _text("4", "b"), END]
    came = [piece async for piece in paced(_stream(*pieces))]
    assert [piece.event_id for piece in came if not isinstance(piece, Complete)] == ["a", "a", "b", "b"]
    assert "".join(piece.text for piece in came if isinstance(piece, TextDelta)) == "1234"


async def test_held_text_comes_although_nothing_follows():
    async def stalls() -> AsyncGenerator[Preview | Complete]:
        yield _text("1")
        yield _text("2")
        await asyncio.Event().wait()

    pieces = paced(stalls())
    assert [await anext(pieces), await anext(pieces)] == [_text("1"), _text("2")]
    await pieces.aclose()


async def test_closing_closes_what_it_reads_from():
    closed = asyncio.Event()

    async def watched() -> AsyncGenerator[Preview | Complete]:
        try:
            yield _text("1")
            await asyncio.Event().wait()
        finally:
            closed.set()

    pieces = paced(watched())
    await anext(pieces)
    await pieces.aclose()
    assert closed.is_set()
