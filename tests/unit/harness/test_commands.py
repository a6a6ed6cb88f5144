"""The commands behind the toolset, really run with sh in a folder of their own."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness_adapters.toolset import check, command, exec_id

Run = Callable[..., subprocess.CompletedProcess[str]]

_APPLETS = [
    "sh",
    "cat",
    "sed",
    "tr",
    "wc",
    "awk",
    "grep",
    "find",
    "stat",
    "sort",
    "cp",
    "mv",
    "rm",
    "mkdir",
    "readlink",
]
NASTY = 'it\'s $(touch pwned) `id` "quoted" *; -x\ntail'


@pytest.fixture(params=["sh", "bash"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Run:
    """Run a tool call's command in ``tmp_path``, as the sandbox would in /workspace."""

    def run_call(name: str, **value: Any) -> subprocess.CompletedProcess[str]:
        assert check(name, value) is None
        built = command(name, value)
        return subprocess.run(
            [request.param, "-c", built.command],
            cwd=tmp_path,
            input=built.stdin or "",
            capture_output=True,
            text=True,
            check=False,
        )

    return run_call


def test_execute_carries_folder_stdin_and_timeout():
    built = command("sandbox_execute", {"command": "cat", "cwd": "/tmp", "stdin": "x", "timeout_seconds": 7})
    assert (built.command, built.cwd, built.stdin, built.timeout_seconds) == ("cat", "/tmp", "x", 7)


def test_execute_runs_in_the_workspace_for_two_minutes_unless_told_otherwise():
    built = command("sandbox_execute", {"command": "true"})
    assert (built.cwd, built.stdin, built.timeout_seconds) == ("/workspace", None, 120)


def test_bash_takes_its_timeout_in_milliseconds():
    assert command("bash", {"command": "true", "timeout_ms": 1500}).timeout_seconds == 1.5
    assert command("bash", {"command": "true", "timeout_ms": 0}).timeout_seconds == 120


def test_a_restart_says_that_there_is_nothing_to_restart(run: Run):
    assert "nothing to restart" in run("bash", restart=True).stdout


def test_read_prints_the_file_as_it_is(run: Run, tmp_path: Path):
    (tmp_path / "a b").write_text("one\ntwo")
    assert run("read", file_path="a b").stdout == "one\ntwo"


@pytest.mark.parametrize(("lines", "said"), [([2, 3], "2\n3\n"), ([4, 0], "4\n5\n"), ([9, -1], "")])
def test_read_prints_a_range_of_lines(run: Run, tmp_path: Path, lines: list[int], said: str):
    (tmp_path / "f").write_text("1\n2\n3\n4\n5\n")
    assert run("read", file_path="f", view_range=lines).stdout == said


def test_read_says_what_is_wrong_with_a_path(run: Run, tmp_path: Path):
    (tmp_path / "folder").mkdir()
    missing, folder = run("read", file_path="no such"), run("read", file_path="folder")
    assert (missing.returncode, missing.stderr) == (1, "read: no such does not exist\n")
    assert (folder.returncode, folder.stderr) == (1, "read: folder is a folder\n")


@pytest.mark.parametrize("path", ["f", "-n", "deep/er/f", 'it\'s "$HOME" `id`', "ünï/文件", "line\nbreak"])
def test_what_was_written_is_read_back(run: Run, tmp_path: Path, path: str):
    written = run("write", file_path=path, content=NASTY)
    assert written.returncode == 0, written.stderr
    assert f"wrote {len(NASTY.encode())} bytes" in written.stdout
    assert (tmp_path / path).read_text() == NASTY
    assert run("read", file_path=path).stdout == NASTY
    assert not (tmp_path / "pwned").exists()


def test_write_replaces_the_whole_file(run: Run, tmp_path: Path):
    (tmp_path / "f").write_text("a long first version")
    run("write", file_path="f", content="")
    assert (tmp_path / "f").read_bytes() == b""


def test_write_fails_where_a_file_is_in_the_way(run: Run, tmp_path: Path):
    (tmp_path / "f").write_text("x")
    assert run("write", file_path="f/g", content="y").returncode == 1


@pytest.mark.parametrize("ending", ["", "\n", "\n\n"])
@pytest.mark.parametrize(
    ("old", "new"),
    [("middle", "centre"), ("middle\n", ""), ("mid", NASTY), ("middle", "\\1 & \\n \\\\ %s"), ("e\n", "é\n文")],
)
def test_edit_replaces_one_occurrence_and_nothing_else(run: Run, tmp_path: Path, old: str, new: str, ending: str):
    before = f"top \\d & äß\nmiddle\nbottom{ending}"
    (tmp_path / "f").write_text(before)
    assert before.count(old) == 1
    edited = run("edit", file_path="f", old_string=old, new_string=new)
    assert edited.returncode == 0, edited.stderr
    assert (tmp_path / "f").read_text() == before.replace(old, new)
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_edit_of_a_text_that_is_not_there_changes_nothing(run: Run, tmp_path: Path):
    (tmp_path / "f").write_text("abc")
    edited = run("edit", file_path="f", old_string="a.c", new_string="x")
    assert edited.returncode == 1
    assert "does not occur" in edited.stderr
    assert (tmp_path / "f").read_text() == "abc"
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_edit_of_a_text_that_occurs_more_often_says_how_often(run: Run, tmp_path: Path):
    (tmp_path / "f").write_text("a a a")
    edited = run("edit", file_path="f", old_string="a", new_string="b")
    assert edited.returncode == 1
    assert "occurs 3 times" in edited.stderr
    assert (tmp_path / "f").read_text() == "a a a"


def test_edit_replaces_all_when_asked(run: Run, tmp_path: Path):
    (tmp_path / "f").write_text("a b a\n" * 20_000)
    edited = run("edit", file_path="f", old_string="a b", new_string="aa", replace_all=True)
    assert "replaced 20000 occurrence(s)" in edited.stdout
    assert (tmp_path / "f").read_text() == "aa a\n" * 20_000


def test_edit_keeps_mode_and_link(run: Run, tmp_path: Path):
    script = tmp_path / "real.sh"
    script.write_text("echo old")
    script.chmod(0o750)
    (tmp_path / "link").symlink_to("real.sh")
    assert run("edit", file_path="link", old_string="old", new_string="new").returncode == 0
    assert script.read_text() == "echo new"
    assert script.stat().st_mode & 0o777 == 0o750
    assert (tmp_path / "link").is_symlink()


def test_edit_keeps_the_separator_that_it_uses_itself(run: Run, tmp_path: Path):
    (tmp_path / "f").write_text("\1a\1\1b\1")
    assert run("edit", file_path="f", old_string="b\1", new_string="\1c").returncode == 0
    assert (tmp_path / "f").read_text() == "\1a\1\1\1c"


def test_edit_refuses_a_binary_file(run: Run, tmp_path: Path):
    (tmp_path / "f").write_bytes(b"a\0b")
    edited = run("edit", file_path="f", old_string="a", new_string="c")
    assert "not a text file" in edited.stderr
    assert (tmp_path / "f").read_bytes() == b"a\0b"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for age, name in enumerate(["a.py", "src/b.py", "src/deep/c.py", "src/d.txt", "we ird/[x].py"]):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"import {path.stem}\n")
        os.utime(path, (1_700_000_000 - age, 1_700_000_000 - age))
    return tmp_path


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("**/*.py", ["a.py", "src/b.py", "src/deep/c.py", "we ird/[x].py"]),
        ("*.py", ["a.py"]),
        ("src/*", ["src/b.py", "src/d.txt"]),
        ("src/**", ["src/b.py", "src/deep/c.py", "src/d.txt"]),
        ("src/?.{py,txt}", ["src/b.py", "src/d.txt"]),
        ("**/[!ab].py", ["src/deep/c.py"]),
        ("we ird/\\[x\\].py", ["we ird/[x].py"]),
        ("a+py", ["(no file fits)"]),
        ("$(touch pwned)'*", ["(no file fits)"]),
    ],
)
def test_glob_lists_what_fits_newest_first(run: Run, tree: Path, pattern: str, found: list[str]):
    listed = run("glob", pattern=pattern)
    assert listed.returncode == 0, listed.stderr
    assert listed.stdout.splitlines() == found
    assert not (tree / "pwned").exists()


def test_glob_searches_under_a_path(run: Run, tree: Path):
    assert run("glob", pattern="**/*.py", path="src").stdout.splitlines() == ["src/b.py", "src/deep/c.py"]


def test_glob_takes_an_absolute_pattern(run: Run, tree: Path):
    listed = run("glob", pattern=f"{tree}/src/d*/*.py")
    assert listed.stdout.splitlines() == [f"{tree}/src/deep/c.py"]


def test_glob_refuses_a_folder_that_is_not_there(run: Run):
    assert run("glob", pattern="*", path="nowhere").returncode == 1


def test_grep_prints_path_line_number_and_line(run: Run, tree: Path):
    found = run("grep", pattern="^import (b|c)$", path="src")
    assert sorted(found.stdout.splitlines()) == ["src/b.py:1:import b", "src/deep/c.py:1:import c"]


def test_grep_without_a_match_is_no_failure(run: Run, tree: Path):
    found = run("grep", pattern="-e nowhere")
    assert (found.returncode, found.stdout) == (0, "(no match)\n")


def test_grep_passes_on_what_is_wrong_with_an_expression(run: Run, tree: Path):
    found = run("grep", pattern="a(")
    assert found.returncode == 2
    assert found.stderr


def test_grep_skips_binary_files(run: Run, tmp_path: Path):
    (tmp_path / "f").write_bytes(b"needle\0\n")
    assert run("grep", pattern="needle").stdout == "(no match)\n"


@pytest.mark.skipif(shutil.which("busybox") is None, reason="there is no busybox on this machine")
def test_the_commands_run_with_busybox_alone(tmp_path: Path):
    tools = tmp_path / "bin"
    tools.mkdir()
    for applet in _APPLETS:
        (tools / applet).symlink_to(shutil.which("busybox") or "")
    work = tmp_path / "work"
    work.mkdir()
    calls: list[tuple[str, dict[str, Any], str]] = [
        ("write", {"file_path": "d/f.txt", "content": "one\ntwo é\n"}, "wrote 11 bytes"),
        ("edit", {"file_path": "d/f.txt", "old_string": "two é", "new_string": "2"}, "replaced 1 occurrence"),
        ("read", {"file_path": "d/f.txt"}, "one\n2\n"),
        ("glob", {"pattern": "**/*.txt"}, "d/f.txt\n"),
        ("grep", {"pattern": "^2"}, "d/f.txt:2:2\n"),
    ]
    for name, value, said in calls:
        built = command(name, value)
        done = subprocess.run(
            [tools / "sh", "-c", built.command],
            cwd=work,
            env={"PATH": str(tools)},
            input=built.stdin or "",
            capture_output=True,
            text=True,
            check=False,
        )
        assert said in done.stdout, (name, done)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("sandbox_execute", {"command": "true"}, "sevt_call"),
        ("sandbox_execute", {"exec_id": "sevt_earlier", "stdin": "y"}, "sevt_earlier"),
        ("bash", {"command": "true"}, "sevt_call"),
        ("bash", {"command": "true", "exec_id": "sevt_earlier"}, "sevt_call"),
        ("sandbox_execute", {"exec_id": 7}, "sevt_call"),
        ("sandbox_provision", {}, None),
        ("save_memory", {"path": "/a"}, None),
    ],
)
def test_a_command_is_known_by_the_id_of_the_call_that_started_it(
    name: str, value: dict[str, Any], expected: str | None
):
    assert exec_id(name, value, "sevt_call") == expected
