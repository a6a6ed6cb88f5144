"""Calls that are refused before anything is run."""

import pytest

from harness_adapters.toolset import INVALID_INPUT, check


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sandbox_provision", {"task_description": "count lines"}),
        ("sandbox_execute", {"command": "true", "cwd": "/tmp", "stdin": "a\0b", "timeout_seconds": 1.5}),
        ("sandbox_execute", {"command": "true", "yield_after_seconds": 0, "close_stdin": True}),
        ("sandbox_execute", {"exec_id": "sevt_1"}),
        ("sandbox_execute", {"exec_id": "e", "stdin": "y\n", "close_stdin": True, "signal": "INT", "cursor": "1.2"}),
        ("bash", {"command": "true", "timeout_ms": 0}),
        ("bash", {"restart": True}),
        ("read", {"file_path": "a", "view_range": [3, -1]}),
        ("write", {"file_path": "a", "content": ""}),
        ("edit", {"file_path": "a", "old_string": "x", "new_string": ""}),
        ("a_custom_tool", {"anything": object()}),
    ],
)
def test_a_good_call_passes(name: str, value: dict[str, object]):
    assert check(name, value) is None


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("sandbox_provision", {}, "task_description is missing"),
        ("sandbox_execute", {"command": 5}, "command must be of type string, not integer"),
        ("sandbox_execute", {"command": None}, "command must be of type string, not null"),
        ("sandbox_execute", {"command": ""}, "command has 0 characters, at least 1 are needed"),
        ("sandbox_execute", {"command": "a\0b"}, "command must not hold NUL"),
        ("sandbox_execute", {"command": "x" * 100_001}, "at most 100000 are allowed"),
        ("sandbox_execute", {"command": "x", "timeout_seconds": 0}, "timeout_seconds is 0, the least is 1"),
        ("sandbox_execute", {"command": "x", "timeout_seconds": 9999}, "timeout_seconds is 9999, the most is 3600"),
        ("sandbox_execute", {"command": "x", "timeout_seconds": True}, "of type number, not boolean"),
        (
            "sandbox_execute",
            {"command": "x", "timeout_seconds": float("nan")},
            "timeout_seconds must be of type number",
        ),
        ("sandbox_execute", {"cmd": "x", "command": "x"}, "cmd is unknown; the fields are command"),
        ("sandbox_execute", {}, "either command, to start one, or exec_id"),
        ("sandbox_execute", {"command": "x", "exec_id": "e"}, "either command, to start one, or exec_id"),
        ("sandbox_execute", {"command": "x", "signal": "INT"}, "signal goes with exec_id only"),
        ("sandbox_execute", {"exec_id": "e", "cwd": "/tmp"}, "cwd goes with command only"),
        ("sandbox_execute", {"exec_id": "e", "signal": "SEGV"}, "signal must be one of HUP, INT"),
        ("sandbox_execute", {"exec_id": "e", "wait_seconds": 601}, "wait_seconds is 601, the most is 600"),
        ("sandbox_execute", {"command": "x", "close_stdin": True}, "close_stdin goes with exec_id or yield_after"),
        ("bash", {}, "command is missing"),
        ("bash", {"restart": False}, "command is missing"),
        ("read", {"file_path": "a", "view_range": [1]}, "view_range has 1 items, at least 2"),
        ("read", {"file_path": "a", "view_range": [1, "2"]}, "view_range[1] must be of type integer, not string"),
        ("read", {"file_path": "a", "view_range": [0, 2]}, "begins at line 0"),
        ("read", {"file_path": "a", "view_range": [5, 2]}, "before it begins"),
        ("edit", {"file_path": "a", "old_string": "", "new_string": "x"}, "old_string has 0 characters"),
        ("edit", {"file_path": "a", "old_string": "x", "new_string": "x"}, "the same as old_string"),
        ("anything", {INVALID_INPUT: '{"a'}, "not a complete, valid JSON object"),
    ],
)
def test_a_bad_call_is_refused_with_the_field(name: str, value: dict[str, object], said: str):
    problem = check(name, value)
    assert problem is not None
    assert problem.startswith(name) or name in problem
    assert said in problem
    assert "nothing was run" in problem


@pytest.mark.parametrize("name", ["read", "save_memory"])
def test_a_custom_tools_input_is_its_makers_to_judge_whatever_its_name(name: str):
    assert check(name, {"anything": 1}) is not None
    assert check(name, {"anything": 1}, is_custom=True) is None
    assert check(name, {INVALID_INPUT: "{"}, is_custom=True) is not None
