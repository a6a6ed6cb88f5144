"""Commands that go on while nobody waits for them: read, fed, signalled and listed."""

import asyncio
import signal
from collections.abc import Generator

import pytest

from sandbox.contract import ExecResult, SandboxError
from tests.support.sandboxes import Box

_ECHO = 'while read -r line; do echo "got $line"; done; echo end'


async def read_on(box: Box, exec_id: str, cursor: str, until: str = "") -> tuple[str, ExecResult]:
    """Read until the output holds a text, or to the end; return what was printed, and the last result."""
    text = ""
    while True:
        result = await box.provider.read_output(box.sandbox_id, exec_id, cursor=cursor, wait_seconds=30)
        text, cursor = text + result.stdout, result.cursor
        if (until and until in text) or (result.status != "running" and not result.unread_bytes):
            return text, result


def code_of(caught: pytest.ExceptionInfo[SandboxError]) -> str:
    return caught.value.code


async def test_a_command_that_yields_goes_on_and_is_read_from_its_cursor(box: Box) -> None:
    first = await box.run("echo one; until test -e go; do sleep 0.02; done; echo two; exit 3", yield_after_seconds=1)
    assert (first.status, first.exit_code, first.stdout) == ("running", None, "one\n")
    await box.write("/workspace/go", b"")
    text, last = await read_on(box, first.exec_id, first.cursor)
    assert (text, last.status, last.exit_code) == ("two\n", "exited", 3)
    whole = await box.run("never", exec_id=first.exec_id)
    assert (whole.stdout, whole.cursor, whole.unread_bytes) == ("one\ntwo\n", last.cursor, 0)


async def test_a_command_that_ends_before_it_yields_has_its_result(box: Box) -> None:
    result = await box.run("echo done", yield_after_seconds=50)
    assert (result.status, result.exit_code, result.stdout) == ("exited", 0, "done\n")


async def test_yielding_at_once_does_not_wait(box: Box) -> None:
    result = await box.run("sleep 600", yield_after_seconds=0)
    assert (result.status, result.stdout) == ("running", "")


async def test_a_yielded_command_ends_at_its_own_timeout(box: Box) -> None:
    first = await box.run("echo here; sleep 600", yield_after_seconds=0, timeout_seconds=1)
    text, last = await read_on(box, first.exec_id, first.cursor)
    assert (text, last.status, last.survivors, last.must_recycle) == ("here\n", "timeout", 0, False)


async def test_the_same_cursor_gives_the_same_bytes(box: Box) -> None:
    result = await box.run("seq 1 1000; echo oops >&2")
    for _ in range(2):
        page = await box.provider.read_output(box.sandbox_id, result.exec_id, max_output_bytes=512)
        assert (page.stdout, page.stderr) == (result.stdout[:512], "oops\n")
        assert page.unread_bytes == len(result.stdout) - 512


async def test_pages_make_up_the_whole(box: Box) -> None:
    result = await box.run("seq 1 1000; seq 1 300 >&2")
    out, err, cursor = "", "", ""
    for _ in range(20):
        page = await box.provider.read_output(box.sandbox_id, result.exec_id, cursor=cursor, max_output_bytes=512)
        out, err, cursor = out + page.stdout, err + page.stderr, page.cursor
    assert (out, err, cursor) == (result.stdout, result.stderr, result.cursor)


async def test_what_fell_out_between_two_reads_is_counted_and_marked(box: Box) -> None:
    first = await box.run(
        "echo one; until test -e go; do sleep 0.02; done; seq 1 100000", yield_after_seconds=1, max_output_bytes=4096
    )
    await box.write("/workspace/go", b"")
    await box.run(
        "until test -z \"$(ls /proc | xargs -n 1 -I @ cat /proc/@/comm 2>/dev/null | grep '^seq$')\"; do :; done"
    )
    text, last = await read_on(box, first.exec_id, first.cursor, until="100000\n")
    assert text.startswith("1\n2\n")
    assert text.endswith("99999\n100000\n")
    assert "bytes dropped ...]" in text
    assert last.cursor.split(".")[0] == str(4 + sum(len(str(number)) + 1 for number in range(1, 100_001)))


async def test_reading_waits_for_output_no_longer_than_it_may(box: Box) -> None:
    first = await box.run("sleep 600", yield_after_seconds=0)
    result = await box.provider.read_output(box.sandbox_id, first.exec_id, cursor=first.cursor, wait_seconds=0.2)
    assert (result.status, result.stdout, result.cursor) == ("running", "", first.cursor)


@pytest.mark.parametrize("cursor", ["x", "1", "1.2.3", "-1.0", "1.\u0661"])
async def test_what_is_no_cursor_is_refused(box: Box, cursor: str) -> None:
    await box.run("true", exec_id="known")
    with pytest.raises(SandboxError) as caught:
        await box.provider.read_output(box.sandbox_id, "known", cursor=cursor)
    assert code_of(caught) == "bad_request"


async def test_an_unknown_command_is_said_to_be_unknown(box: Box) -> None:
    provider, sandbox = box.provider, box.sandbox_id
    calls = [
        provider.read_output(sandbox, "unheard"),
        provider.write_stdin(sandbox, "unheard", b"x", write_id="1"),
        provider.signal(sandbox, "unheard", "INT", signal_id="1"),
    ]
    for call in calls:
        with pytest.raises(SandboxError, match="unheard") as caught:
            await call
        assert code_of(caught) == "exec_not_found"


async def test_input_is_fed_to_a_running_command_until_it_is_closed(box: Box) -> None:
    first = await box.run(_ECHO, stdin="zero\n", keep_stdin_open=True, yield_after_seconds=0)
    text, last = await read_on(box, first.exec_id, first.cursor, until="got zero\n")
    await box.provider.write_stdin(box.sandbox_id, first.exec_id, b"one\n", write_id="1")
    more, last = await read_on(box, first.exec_id, last.cursor, until="got one\n")
    await box.provider.write_stdin(box.sandbox_id, first.exec_id, b"two\n", write_id="2", close=True)
    rest, last = await read_on(box, first.exec_id, last.cursor)
    assert text + more + rest == "got zero\ngot one\ngot two\nend\n"
    assert last.exit_code == 0


async def test_a_write_that_is_repeated_is_written_once(box: Box) -> None:
    first = await box.run(_ECHO, keep_stdin_open=True, yield_after_seconds=0)
    other = box.make_provider()
    try:
        for provider in (box.provider, other, box.provider):
            await provider.write_stdin(box.sandbox_id, first.exec_id, b"once\n", write_id="w")
        await other.write_stdin(box.sandbox_id, first.exec_id, b"", write_id="end", close=True)
        text, _ = await read_on(box, first.exec_id, first.cursor)
        assert text == "got once\nend\n"
        await other.write_stdin(box.sandbox_id, first.exec_id, b"once\n", write_id="w")
    finally:
        await other.close()


async def test_input_that_has_no_room_is_refused_whole(box: Box) -> None:
    first = await box.run("until test -e go; do sleep 0.02; done; wc -c", keep_stdin_open=True, yield_after_seconds=0)

    async def write(size: int, write_id: str, *, close: bool = False) -> None:
        await box.provider.write_stdin(box.sandbox_id, first.exec_id, b"x" * size, write_id=write_id, close=close)

    await write(1_000_000, "big")
    with pytest.raises(SandboxError, match="none were taken") as caught:
        await write(1_000_000, "bigger")
    assert code_of(caught) == "stdin_full"
    assert (await box.run("echo meanwhile")).stdout == "meanwhile\n"
    await write(5, "small", close=True)
    await box.write("/workspace/go", b"")
    assert (await read_on(box, first.exec_id, first.cursor))[0].strip() == "1000005"


async def test_input_for_who_cannot_read_it_is_refused(box: Box) -> None:
    closed = await box.run("sleep 600", yield_after_seconds=0)
    deaf = await box.run("exec < /dev/null; touch deaf; sleep 600", keep_stdin_open=True, yield_after_seconds=0)
    await box.until_exists("/workspace/deaf")
    ended = await box.run("true", keep_stdin_open=True)
    found: list[str] = []
    for result in (closed, deaf, ended):
        with pytest.raises(SandboxError) as caught:
            await box.provider.write_stdin(box.sandbox_id, result.exec_id, b"x", write_id="1")
        found.append(code_of(caught))
    assert found == ["stdin_closed", "stdin_closed", "exec_not_running"]


@pytest.mark.parametrize("name", ["HUP", "INT", "QUIT", "USR1", "USR2", "TERM"])
async def test_a_signal_reaches_the_command_once(box: Box, name: str) -> None:
    script = f"trap 'echo caught; touch caught' {name}; touch up; until test -e go; do sleep 0.02; done"
    first = await box.run(script, yield_after_seconds=0)
    await box.until_exists("/workspace/up")
    for _ in range(3):
        await box.provider.signal(box.sandbox_id, first.exec_id, name, signal_id="s")  # type: ignore[arg-type]
    await box.until_exists("/workspace/caught")
    await box.write("/workspace/go", b"")
    assert (await read_on(box, first.exec_id, first.cursor))[0] == "caught\n"


@pytest.fixture
def ignoring() -> Generator[None]:
    """Ignore what a process ignores that was started with nohup in a shell's background."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGHUP, signal.SIGQUIT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


async def test_what_the_worker_ignores_its_commands_do_not(ignoring: None, box: Box) -> None:
    # A shell ignores QUIT itself, and may be the last command of a line; so this one is not the last.
    ignored = await box.run("grep '^SigIgn' /proc/self/status; true")
    # Bit 0 is signal 1; those beyond 31 are not ours: the C library keeps two of them for itself.
    assert int(ignored.stdout.split()[1], 16) & 0x7FFFFFFF == 0


async def test_a_signal_at_once_after_the_start_is_not_lost(box: Box) -> None:
    first = await box.run("sleep 600", yield_after_seconds=0)
    await box.provider.signal(box.sandbox_id, first.exec_id, "INT", signal_id="s")
    _, last = await read_on(box, first.exec_id, first.cursor)
    assert (last.status, last.exit_code) == ("exited", 130)


async def test_a_stopped_command_goes_on_when_it_is_told_to(box: Box) -> None:
    first = await box.run("while :; do echo x >> beat; sleep 0.01; done", yield_after_seconds=0)
    await box.until_exists("/workspace/beat")
    await box.provider.signal(box.sandbox_id, first.exec_id, "STOP", signal_id="1")
    state = "grep -h '^State' /proc/[0-9]*/status | grep -c stopped"
    assert int((await box.run(f"until test $({state}) -gt 0; do :; done; {state}")).stdout) > 0
    await box.provider.signal(box.sandbox_id, first.exec_id, "CONT", signal_id="2")
    before = len(await box.read("/workspace/beat"))
    assert (await box.run(f"until test $(wc -c < beat) -gt {before + 8}; do :; done")).exit_code == 0


async def test_the_signal_kill_ends_the_tree(box: Box) -> None:
    first = await box.run("setsid sleep 651 & trap '' TERM; sleep 652", yield_after_seconds=0)
    await box.provider.signal(box.sandbox_id, first.exec_id, "KILL", signal_id="1")
    result = await box.provider.read_output(box.sandbox_id, first.exec_id)
    assert (result.status, result.survivors) == ("killed", 0)
    with pytest.raises(SandboxError) as caught:
        await box.provider.signal(box.sandbox_id, first.exec_id, "INT", signal_id="2")
    assert code_of(caught) == "exec_not_running"


async def test_commands_are_listed_running_and_newest_first(box: Box) -> None:
    await box.run("echo 12345; exit 4", exec_id="first")
    await box.run("true", exec_id="second")
    await box.run("echo 1; sleep 600", exec_id="third", yield_after_seconds=1)
    other = box.make_provider()
    try:
        found = [(info.exec_id, info.status, info.exit_code, info.output_bytes)
                 for info in await other.list_execs(box.sandbox_id)]  # fmt: skip
    finally:
        await other.close()
    assert found == [("third", "running", None, 2), ("second", "exited", 0, 0), ("first", "exited", 4, 6)]


async def test_another_worker_goes_on_where_the_first_has_left_off(box: Box) -> None:
    first = await box.run(f"echo hello; {_ECHO}", keep_stdin_open=True, yield_after_seconds=1)
    waiting = asyncio.create_task(
        box.provider.read_output(box.sandbox_id, first.exec_id, cursor=first.cursor, wait_seconds=60)
    )
    await asyncio.sleep(0)
    other = box.make_provider()
    try:
        await other.write_stdin(box.sandbox_id, first.exec_id, b"x\n", write_id="1", close=True)
        assert (await waiting).stdout.startswith("got x\n")
        result = await other.read_output(box.sandbox_id, first.exec_id, cursor=first.cursor, wait_seconds=60)
        assert result.stdout.startswith("got x\n")
    finally:
        await other.close()


async def test_a_command_in_the_background_is_no_leftover(box: Box) -> None:
    first = await box.run("sh -c 'for i in $(seq 200); do sleep 600 & done; touch up; wait'", yield_after_seconds=0)
    await box.until_exists("/workspace/up")
    await box.run("sh -c 'for i in $(seq 35); do sleep 623 & done'")
    assert "were ended" in (await box.run("true")).stderr
    assert (await box.provider.exec_state(box.sandbox_id, first.exec_id)).state == "running"
    assert (await box.run("ls /proc | grep -c '^[0-9]'")).stdout.strip() > "200"
