"""Text deltas at a pace that readers can use: many tiny ones become one."""

import asyncio
from collections.abc import AsyncGenerator

from harness_adapters.contract import TextDelta
from harness_adapters.model.answer import Complete, Preview

FLUSH_SECONDS = 0.05
"""Twenty a second look continuous to a reader; each delta costs a notification to every follower."""

FLUSH_CHARS = 200


async def paced(pieces: AsyncGenerator[Preview | Complete]) -> AsyncGenerator[Preview | Complete]:
    """Yield ``pieces`` with text held back until `FLUSH_SECONDS` after the last of it, or `FLUSH_CHARS`, have come.

    The first text is never held back, and none is for longer than that, also when nothing follows. Closing this
    closes ``pieces``.
    """
    loop = asyncio.get_running_loop()
    held: TextDelta | None = None
    flush_at = loop.time()
    following = asyncio.ensure_future(anext(pieces, None))
    try:
        while True:
            if held is not None:
                await asyncio.wait({following}, timeout=max(0.0, flush_at - loop.time()))
                if not following.done():
                    yield held
                    held, flush_at = None, loop.time() + FLUSH_SECONDS
            piece = await following
            if held is not None and not isinstance(piece, TextDelta):
                yield held
                held, flush_at = None, loop.time() + FLUSH_SECONDS
            if piece is None:
                return
            if isinstance(piece, TextDelta):
                held = TextDelta(event_id=piece.event_id, text=(held.text if held else "") + piece.text)
                if len(held.text) >= FLUSH_CHARS or loop.time() >= flush_at:
                    yield held
                    held, flush_at = None, loop.time() + FLUSH_SECONDS
            else:
                yield piece
            following = asyncio.ensure_future(anext(pieces, None))
    finally:
        following.cancel()
        await asyncio.wait({following})
        await pieces.aclose()
