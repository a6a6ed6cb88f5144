"""Server-sent events out of chunks of bytes."""

from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass


@dataclass(frozen=True)
class ServerSentEvent:
    """An event as it came; ``data`` lines are joined."""

    event: str
    data: str


async def events(chunks: AsyncIterator[bytes]) -> AsyncGenerator[ServerSentEvent]:
    """Yield each complete event; one that the stream's end cuts off is dropped, as the specification wants."""
    name, data = "", list[str]()
    async for line in _lines(chunks):
        if line:
            field, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if field == "event":
                name = value
            elif field == "data":
                data.append(value)
        else:
            if data:
                yield ServerSentEvent(name, "\n".join(data))
            name, data = "", []


async def _lines(chunks: AsyncIterator[bytes]) -> AsyncGenerator[str]:
    """Yield lines that end in LF or CRLF; a lone CR, which no provider sends, is not taken for an end."""
    rest = bytearray()
    async for chunk in chunks:
        rest += chunk
        *complete, last = rest.split(b"\n")
        rest = bytearray(last)
        for line in complete:
            yield line.removesuffix(b"\r").decode(errors="replace")
