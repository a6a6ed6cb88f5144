"""Server-sent events of our own API, for those who read them."""

from collections.abc import Iterator


class Frames:
    """Makes frames, each by the names of its fields, of the bytes that come.

    A line ends at a line feed alone: what a text has in it that Unicode also calls a line's end, and `str.splitlines`
    with it, is part of the text.
    """

    def __init__(self) -> None:
        self._line: list[bytes] = []
        self._fields: dict[str, str] = {}

    def feed(self, chunk: bytes) -> Iterator[dict[str, str]]:
        """Yield what is complete by now."""
        rest, *begun = chunk.split(b"\n")
        self._line.append(rest)
        for piece in begun:
            line = b"".join(self._line).removesuffix(b"\r").decode()
            self._line = [piece]
            if line:
                name, _, value = line.partition(": ")
                self._fields[name] = value
            elif self._fields:
                yield self._fields
                self._fields = {}
