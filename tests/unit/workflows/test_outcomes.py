"""What a model reads of a command."""

from sandbox.contract import ExecResult
from workflows.outcomes import described


def said(result: ExecResult) -> tuple[str, bool]:
    outcome = described("sevt_2", result)
    return "".join(getattr(block, "text", "") for block in outcome.content), outcome.is_error


def test_a_command_that_still_runs_is_no_error_and_says_how_to_go_on() -> None:
    text, is_error = said(ExecResult(exec_id="sevt_1", status="running", stdout="so far\n", cursor="7.0"))
    assert not is_error
    assert text.startswith("so far\n[the command still runs; to read on, to give it input or to signal it")
    assert text.endswith('call sandbox_execute with exec_id "sevt_1" and cursor "7.0"]')


def test_output_that_is_left_is_named() -> None:
    text, is_error = said(
        ExecResult(exec_id="sevt_1", status="exited", exit_code=0, stdout="a", unread_bytes=5, cursor="1.0")
    )
    assert not is_error
    assert text.startswith("a\n[5 more bytes of output are there; to read them, call sandbox_execute with exec_id")


def test_an_ended_command_says_its_exit_code_and_nothing_of_cursors() -> None:
    assert said(ExecResult(exec_id="sevt_1", status="exited", exit_code=3, cursor="0.0")) == ("[exit code 3]", True)
