"""What a tool call came to, in words for the model."""

import json
from collections.abc import Sequence

from harness_adapters.contract import TextBlock, ToolOutcome
from sandbox.contract import ExecResult
from sandbox.keeper import Held


def failure(tool_use_id: str, sentence: str) -> ToolOutcome:
    """A call that did not do what it asked."""
    return ToolOutcome(tool_use_id=tool_use_id, content=[TextBlock(text=sentence)], is_error=True)


def not_run(tool_use_id: str, because: str) -> ToolOutcome:
    """A call that certainly did not run."""
    return failure(tool_use_id, f"Not run: {because}.")


def unknown(tool_use_id: str, because: str) -> ToolOutcome:
    """A call of which nobody can say whether it ran."""
    return failure(
        tool_use_id,
        f"Outcome unknown: {because} while this call was in hand. It may have run, in part or in full, or not at all."
        " Check its effects before you repeat it.",
    )


def provisioned(tool_use_id: str, held: Held) -> ToolOutcome:
    """The sandbox that a session has, and how well it isolates."""
    text = json.dumps(
        {
            "sandbox_id": held.row.id,
            "generation": held.row.generation,
            "source": "cold" if held.fresh else "existing",
            "expires_at": held.row.expires_at.isoformat(),
            "isolation_effective": held.row.details.get("isolation"),
            "timings_ms": held.row.details.get("timings_ms"),
        }
    )
    return ToolOutcome(tool_use_id=tool_use_id, content=[TextBlock(text=text)])


_ENDINGS = {
    "timeout": "[timed out; everything the command started was killed]",
    "killed": "[interrupted; everything the command started was killed]",
    "oom": "[killed: out of memory]",
    "lost": "[outcome unknown: the sandbox could not say how the command ended; check its effects]",
    "output_limit": "[killed: it wrote more output than is allowed]",
}


def described(tool_use_id: str, result: ExecResult, *, replaced: bool, refusals: Sequence[str] = ()) -> ToolOutcome:
    """A command's output and how it ended.

    ``replaced``: it ran in another sandbox than the commands before it. ``refusals``: what it could not reach.
    """
    parts = [
        "[this is a new sandbox: the one before it has ended, and its files with it]" if replaced else "",
        result.stdout,
        f"[stderr]\n{result.stderr}" if result.stderr else "",
        f"[{result.dropped_bytes} bytes in the middle of the output were dropped]" if result.dropped_bytes else "",
        _ENDINGS.get(result.status, ""),
        _going_on(result),
        f"[exit code {result.exit_code}]" if result.status == "exited" and result.exit_code != 0 else "",
        *(f"[network] {sentence}" for sentence in refusals),
    ]
    text = "\n".join(part.rstrip("\n") for part in parts if part)
    return ToolOutcome(
        tool_use_id=tool_use_id,
        content=[TextBlock(text=text or "(no output)")],
        is_error=result.status != "running" and (result.status != "exited" or result.exit_code != 0),
    )


def _going_on(result: ExecResult) -> str:
    if result.status == "running":
        begin = "[the command still runs; to read on, to give it input or to signal it"
    elif result.unread_bytes:
        begin = f"[{result.unread_bytes} more bytes of output are there; to read them"
    else:
        return ""
    return f'{begin}, call sandbox_execute with exec_id "{result.exec_id}" and cursor "{result.cursor}"]'
