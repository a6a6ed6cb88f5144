"""Frames between worker and supervisor."""

import pytest

from sandbox.supervisor.frames import FRAME, MAX_FRAME_BYTES, pack, unpack


def test_frames_come_off_one_by_one_however_they_arrive() -> None:
    sent = pack({"id": 1, "name": "ä"}, b"\0payload") + pack({"id": 2})
    buffer, found = bytearray(), []
    for byte in sent:
        buffer.append(byte)
        while frame := unpack(buffer):
            found.append(frame)
    assert found == [({"id": 1, "name": "ä"}, b"\0payload"), ({"id": 2}, b"")]
    assert buffer == b""


def test_a_frame_that_claims_too_much_is_refused_before_it_is_read() -> None:
    with pytest.raises(ValueError, match="a frame of"):
        unpack(bytearray(FRAME.pack(2, MAX_FRAME_BYTES)))


def test_a_header_that_is_not_json_is_refused() -> None:
    with pytest.raises(ValueError, match="Expecting"):
        unpack(bytearray(FRAME.pack(3, 0) + b"abc"))
