"""What is kept of a command's output."""

from sandbox.supervisor.output import Capture, Spool


def header(out: int, err: int = 0) -> dict[str, object]:
    return {"status": "exited", "stdout_bytes": out, "stderr_bytes": err, "dropped_bytes": 0}


def test_short_output_is_kept_whole() -> None:
    capture = Capture(1000)
    for piece in (b"a" * 400, b"b" * 300, b"c" * 250):
        capture.feed(piece)
    assert capture.content() == (b"a" * 400 + b"b" * 300 + b"c" * 250, 0)


def test_long_output_loses_its_middle_and_says_how_much() -> None:
    capture = Capture(1000)
    capture.feed(b"H" * 600 + b"M" * 10_000_000)
    capture.feed(b"T" * 600)
    kept, dropped = capture.content()
    assert kept.startswith(b"H" * 400)
    assert kept.endswith(b"T" * 400)
    assert b"[... %d bytes dropped ...]" % dropped in kept
    assert len(kept) <= 1000
    assert capture.total == 600 + 10_000_000 + 600


def test_a_limit_of_nothing_keeps_nothing() -> None:
    capture = Capture(0)
    capture.feed(b"x" * 5_000_000)
    kept, dropped = capture.content()
    assert dropped == 5_000_000
    assert len(kept) < 60


def test_a_spool_returns_what_it_was_given() -> None:
    spool = Spool(1000)
    spool.put("one", header(3, 2), b"outer")
    spool.put("two", header(0), b"")
    assert spool.get("one") == (header(3, 2), b"outer")
    assert spool.get("two") == (header(0), b"")
    assert spool.get("three") is None


def test_a_full_spool_forgets_the_oldest_outputs_but_no_verdict() -> None:
    spool = Spool(1000)
    for number in range(50):
        spool.put(str(number), header(100), b"%03d" % number + b"." * 97)
    newest = spool.get("49")
    assert newest is not None
    assert newest[1].startswith(b"049")
    oldest = spool.get("0")
    assert oldest == ({"status": "exited", "stdout_bytes": 0, "stderr_bytes": 0, "dropped_bytes": 100}, b"")


def test_an_output_larger_than_the_spool_is_kept_while_it_is_new() -> None:
    spool = Spool(10)
    spool.put("big", header(100), b"x" * 100)
    assert spool.get("big") == (header(100), b"x" * 100)
