"""The archives that one connection reads or writes, step by step, so that nothing else has to wait long."""

import time
from collections.abc import Callable, Generator, Iterator

from sandbox.supervisor.files import RefusedError
from sandbox.supervisor.frames import Header
from sandbox.supervisor.packing import Packing
from sandbox.supervisor.unpacking import Unpacking

PIECE_BYTES = 256 << 10
"""With files of a few bytes this is a few hundred of them, whose making takes some ten milliseconds."""
STEP_SECONDS = 0.02
PAUSE_SECONDS = 0.001
"""Not 0: the loop looks at its sockets only when no timer is due."""

Answer = Callable[[Header, bytes], None]
Later = Callable[[float, Callable[[], None]], None]


class Archives:
    """What is open by its handle; what is not finished leaves no trace."""

    def __init__(self, later: Later):
        self._later = later
        self._packing: dict[int, tuple[Packing, Generator[bytes, None, None]]] = {}
        self._unpacking: dict[int, Unpacking] = {}
        self._number = 0
        self.orders: dict[str, Callable[[Header, bytes, Answer], None]] = {
            "pack": self._pack,
            "pack_more": self._pack_more,
            "unpack": self._unpack,
            "unpack_more": self._unpack_more,
            "unpack_end": self._unpack_end,
            "archive_close": self._close,
        }

    def obey(self, order: Header, payload: bytes, answer: Answer) -> None:
        """Carry out an order; raises `RefusedError`."""
        try:
            self.orders[order["op"]](order, payload, answer)
        except FileNotFoundError as error:
            raise RefusedError("file_not_found", f"{order.get('path')!r}: {error.strerror}") from error
        except OSError as error:
            raise RefusedError("file_refused", f"{order.get('path')!r}: {error.strerror}") from error

    def _pack(self, order: Header, _: bytes, answer: Answer) -> None:
        self._number += 1
        packing = Packing.of(order["path"], max_bytes=order["max_bytes"])
        self._packing[self._number] = packing, packing.pieces()
        answer({"handle": self._number}, b"")

    def _pack_more(self, order: Header, _: bytes, answer: Answer) -> None:
        packing, pieces = self._packing[order["handle"]]
        data, until = bytearray(), time.monotonic() + STEP_SECONDS
        for piece in pieces:
            data += piece
            if len(data) >= PIECE_BYTES or time.monotonic() > until:
                answer({"done": False}, bytes(data))
                return
        answer({"done": True, **packing.receipt()}, bytes(data))

    def _unpack(self, order: Header, _: bytes, answer: Answer) -> None:
        self._number += 1
        self._unpacking[self._number] = Unpacking.into(order["path"], max_bytes=order["max_bytes"])
        answer({"handle": self._number}, b"")

    def _unpack_more(self, order: Header, payload: bytes, answer: Answer) -> None:
        self._unpacking[order["handle"]].feed(payload)
        answer({}, b"")

    def _unpack_end(self, order: Header, _: bytes, answer: Answer) -> None:
        unpacking = self._unpacking.pop(order["handle"])

        def installed(error: RefusedError | None) -> None:
            result = unpacking.receipt() if error is None else {"error": error.code, "message": str(error)}
            self._drive(unpacking.close(), lambda _: answer(result, b""))

        self._drive(unpacking.install(), installed)

    def _drive(self, steps: Iterator[None], done: Callable[[RefusedError | None], None]) -> None:
        """Do what there is to do, a little at a time, whether or not the connection still stands."""
        until = time.monotonic() + STEP_SECONDS
        try:
            for _ in steps:
                if time.monotonic() > until:
                    self._later(PAUSE_SECONDS, lambda: self._drive(steps, done))
                    return
        except RefusedError as error:
            done(error)
        except OSError as error:
            done(RefusedError("file_refused", f"the archive could not be put in its place: {error.strerror}"))
        else:
            done(None)

    def _close(self, order: Header, _: bytes, answer: Answer) -> None:
        if found := self._packing.pop(order["handle"], None):
            _end_reading(*found)
        if unpacking := self._unpacking.pop(order["handle"], None):
            self._drive(unpacking.close(), lambda _: answer({}, b""))
        else:
            answer({}, b"")

    def abandon(self) -> None:
        """Close everything and remove what is unfinished."""
        for found in self._packing.values():
            _end_reading(*found)
        for unpacking in self._unpacking.values():
            self._drive(unpacking.close(), lambda _: None)
        self._packing.clear()
        self._unpacking.clear()


def _end_reading(packing: Packing, pieces: Generator[bytes, None, None]) -> None:
    pieces.close()
    packing.close()
