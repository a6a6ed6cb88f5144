"""A session's events as server-sent events."""

import json

from controlplane.api.stream import frame


def test_a_frame_has_no_line_end_but_its_own() -> None:
    said = "one\u2028two\u2029three\x85four\x0bfive\x0csix\x1cseven é 😀\nend"
    sent = frame("agent.message", {"text": said}, seq=3).decode()
    assert len(sent.splitlines()) == len(sent.split("\n")) - 1 == 4
    assert json.loads(sent.split("\n")[2].removeprefix("data: ")) == {"text": said}
