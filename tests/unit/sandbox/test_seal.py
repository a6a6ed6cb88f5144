"""What only a worker and process 1 can write, whoever carries it."""

import os

import pytest

from sandbox.supervisor.seal import (
    CLAIMED,
    GREETING_BYTES,
    KEY_BYTES,
    NONCE_BYTES,
    UNCLAIMED,
    Keyhole,
    Seal,
    SealedEnd,
    seals,
)

_KEY = bytes(range(KEY_BYTES))
_NONCE = b"w" * NONCE_BYTES


def greeted(keyhole: Keyhole, key: bytes = _KEY) -> tuple[SealedEnd, Seal, Seal]:
    """Return process 1's end of a new connection, and both seals of the worker."""
    end = SealedEnd(keyhole)
    greeting = end.greeting()
    assert len(greeting) == GREETING_BYTES
    end.opened(_NONCE + (key if greeting[:1] == UNCLAIMED else b""))
    return end, *seals(key, greeting[1:] + _NONCE)


def test_the_first_to_come_brings_the_key_and_orders_and_answers_pass() -> None:
    keyhole = Keyhole()
    end, own, theirs = greeted(keyhole)
    assert keyhole.key == _KEY
    assert end.opened(own.close(b"one") + own.close(b"two")) == b"onetwo"
    assert theirs.open(end.closed(b"done")) == b"done"


def test_pieces_that_come_bit_by_bit_are_put_together() -> None:
    end, own, _ = greeted(Keyhole())
    closed = own.close(b"x" * 1000)
    assert b"".join(end.opened(closed[at : at + 7]) for at in range(0, len(closed), 7)) == b"x" * 1000


def test_who_comes_later_cannot_bring_another_key() -> None:
    keyhole = Keyhole()
    greeted(keyhole)
    assert SealedEnd(keyhole).greeting()[:1] == CLAIMED
    end, own, _ = greeted(keyhole, key=b"k" * KEY_BYTES)
    with pytest.raises(ValueError, match="not sealed"):
        end.opened(own.close(b"order"))
    assert keyhole.key == _KEY


@pytest.mark.parametrize(
    "tampering", ["changed", "repeated", "swapped", "left out", "of another connection", "answer"]
)
def test_what_somebody_in_between_has_touched_is_refused(tampering: str) -> None:
    keyhole = Keyhole()
    end, own, theirs = greeted(keyhole)
    first, second = own.close(b"first"), own.close(b"second")
    sent = {
        "changed": first[:-1] + b"!",
        "repeated": first + first,
        "swapped": second + first,
        "left out": second,
        "of another connection": greeted(keyhole)[1].close(b"first"),
        "answer": theirs.close(b"first"),
    }[tampering]
    with pytest.raises(ValueError, match="not sealed"):
        end.opened(sent)


def test_an_endless_piece_is_refused_before_it_is_kept() -> None:
    end, _, _ = greeted(Keyhole())
    with pytest.raises(ValueError, match="a piece of"):
        end.opened(b"\xff" * 4 + os.urandom(100))


def test_nobody_is_answered_who_has_not_asked() -> None:
    with pytest.raises(ValueError, match="nobody"):
        SealedEnd(Keyhole()).closed(b"facts")
