"""What is kept of a command's output, and how it is read."""

from hypothesis import given
from hypothesis import strategies as st

from sandbox.supervisor.output import MARK_BYTES, WHOLE, Capture, Page, Spool, Verdict, Window

DONE = Verdict("exited", 0, 1.5, 0)


def whole(capture: Capture) -> Page:
    return capture.window().page(0, WHOLE, ended=True)


def kept(text: bytes) -> Window:
    return Window(text, b"", len(text))


def test_short_output_is_kept_whole() -> None:
    capture = Capture(1000)
    for piece in (b"a" * 400, b"b" * 300, b"c" * 250):
        capture.feed(piece)
    page = whole(capture)
    assert (page.before + page.after, page.dropped) == (b"a" * 400 + b"b" * 300 + b"c" * 250, 0)


def test_long_output_loses_its_middle_and_says_how_much() -> None:
    capture = Capture(1000)
    capture.feed(b"H" * 600 + b"M" * 10_000_000)
    capture.feed(b"T" * 600)
    before, dropped, after, cursor, unread = whole(capture)
    assert before.startswith(b"H" * 400)
    assert after.endswith(b"T" * 400)
    assert len(before + after) <= 1000 - MARK_BYTES
    assert dropped + len(before + after) == capture.total == cursor == 600 + 10_000_000 + 600
    assert unread == 0


def test_a_limit_of_nothing_keeps_nothing() -> None:
    capture = Capture(0)
    capture.feed(b"x" * 5_000_000)
    assert whole(capture) == (b"", 5_000_000, b"", 5_000_000, 0)


def test_a_character_is_not_torn_apart_while_its_rest_may_come() -> None:
    capture = Capture(1000)
    capture.feed("für".encode()[:2])
    first = capture.window().page(0, 100, ended=False)
    assert (first.before, first.cursor) == (b"f", 1)
    capture.feed("für".encode()[2:])
    second = capture.window().page(first.cursor, 100, ended=False)
    assert (second.before, second.cursor) == ("ür".encode(), 4)


def test_half_a_character_at_the_end_is_given_as_it_is() -> None:
    assert kept(b"a\xc3").page(0, 100, ended=True).before == b"a\xc3"


def test_an_offset_that_no_page_had_is_harmless() -> None:
    assert kept(b"abc").page(99, 100, ended=True) == (b"", 0, b"", 3, 0)


@given(
    pieces=st.lists(st.binary(max_size=400) | st.text(max_size=100).map(str.encode), max_size=30),
    window=st.integers(0, 700),
    limit=st.integers(MARK_BYTES + 4, 600),
    reads=st.sets(st.integers(0, 29)),
)
def test_reading_on_and_on_gives_everything_once_but_what_is_counted_as_dropped(
    pieces: list[bytes], window: int, limit: int, reads: set[int]
) -> None:
    capture, printed, cursor = Capture(window), b"", 0

    def read(*, ended: bool) -> bool:
        nonlocal cursor
        page = capture.window().page(cursor, limit, ended=ended)
        assert page == capture.window().page(cursor, limit, ended=ended)
        assert len(page.before) + len(page.after) + (MARK_BYTES if page.dropped else 0) <= limit
        assert printed[cursor:].startswith(page.before)
        reached = cursor + len(page.before) + page.dropped
        assert printed[reached:].startswith(page.after)
        assert page.cursor == reached + len(page.after)
        assert page.unread == len(printed) - page.cursor
        moved, cursor = page.cursor > cursor, page.cursor
        return moved

    for number, piece in enumerate(pieces):
        capture.feed(piece)
        printed += piece
        if number in reads:
            read(ended=False)
    while read(ended=True):
        pass
    assert cursor == len(printed)


def test_a_spool_returns_what_it_was_given() -> None:
    spool = Spool(1000)
    windows = [Window(b"ou", b"er", 9), kept(b"er")]
    spool.put("one", DONE, windows)
    spool.put("two", DONE, [kept(b""), kept(b"")])
    assert spool.get("one") == (DONE, windows)
    assert spool.get("two") == (DONE, [kept(b""), kept(b"")])
    assert spool.get("three") is None
    assert list(spool.verdicts()) == [("two", DONE, 0), ("one", DONE, 11)]


def test_a_full_spool_forgets_the_oldest_outputs_but_no_verdict() -> None:
    spool = Spool(1000)
    for number in range(50):
        spool.put(str(number), DONE, [kept(b"%03d" % number + b"." * 97), kept(b"")])
    assert spool.get("49") == (DONE, [kept(b"049" + b"." * 97), kept(b"")])
    verdict, (out, _) = spool.get("0") or (None, (kept(b""), None))
    assert verdict == DONE
    assert out.page(0, WHOLE, ended=True) == (b"", 100, b"", 100, 0)


def test_an_output_larger_than_the_spool_is_kept_while_it_is_new() -> None:
    spool = Spool(10)
    spool.put("big", DONE, [kept(b"x" * 100), kept(b"")])
    assert spool.get("big") == (DONE, [kept(b"x" * 100), kept(b"")])
