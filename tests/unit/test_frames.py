"""Server-sent events of our own API, as they are read."""

from hypothesis import given
from hypothesis import strategies as st

from controlplane.frames import Frames

TEXT = st.text(st.characters(exclude_characters="\n\r", exclude_categories=["Cs"]), max_size=30)


@given(st.lists(TEXT, max_size=5), st.integers(1, 9))
def test_whatever_is_in_a_text_and_however_it_is_cut_it_is_read(texts: list[str], size: int) -> None:
    sent = b": connected\n\n" + b"".join(
        f"id: {n}\nevent: agent.message\ndata: {text}\n\n".encode() for n, text in enumerate(texts)
    )
    frames, found = Frames(), list[dict[str, str]]()
    for at in range(0, len(sent), size):
        found += frames.feed(sent[at : at + size])
    assert [each["data"] for each in found[1:]] == texts
    assert [each["id"] for each in found[1:]] == [str(n) for n in range(len(texts))]


def test_what_has_no_end_yet_is_not_there() -> None:
    frames = Frames()
    assert list(frames.feed(b"id: 1\ndata: {}\n")) == []
    assert list(frames.feed(b"\n")) == [{"id": "1", "data": "{}"}]
