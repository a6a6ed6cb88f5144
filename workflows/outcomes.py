"""What a tool call came to, in words for the model."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from harness_adapters.contract import TextBlock, ToolOutcome
from sandbox.contract import ExecResult
from sandbox.records import EndReason, KeptFolder, Restored, SandboxRow


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


def with_edited_input(outcome: ToolOutcome, value: Mapping[str, Any]) -> ToolOutcome:
    """An outcome that says first that a person changed the call's arguments, and to what."""
    said = json.dumps(value, ensure_ascii=False)
    note = TextBlock(text=f"[the person who allowed this call changed its arguments to {said}]")
    return outcome.model_copy(update={"content": [note, *outcome.content]})


def provisioned(tool_use_id: str, box: SandboxRow) -> ToolOutcome:
    """The sandbox that a session has, and how well it isolates."""
    is_new = box.first_tool_use_id == tool_use_id
    text = json.dumps(
        {
            "sandbox_id": box.id,
            "generation": box.generation,
            "source": box.details.source if is_new else "existing",
            "expires_at": box.expires_at.isoformat(),
            "isolation_effective": box.details.isolation_effective,
            "timings_ms": box.details.timings_ms,
        }
    )
    receipt = opening_receipt(tool_use_id, box)
    texts = [text, receipt] if receipt else [text]
    return ToolOutcome(tool_use_id=tool_use_id, content=[TextBlock(text=each) for each in texts])


_PREVIOUS_ENDS: Mapping[EndReason, str] = {
    "idle": "was put away after a while without use",
    "stopped": "was put away when its host was stopped",
    "halted": "was stopped by a person",
    "recycled": "was replaced, because a command left processes that could not be ended",
    "lost": "was lost",
}
_NEVER_KEPT = "processes, and files outside of these folders (/tmp, the home folder)"


def opening_receipt(tool_use_id: str, box: SandboxRow) -> str:
    """Return the restore receipt in words, for the call that a sandbox was provisioned for; empty for all others."""
    restored = box.details.restored
    if restored is None or box.first_tool_use_id != tool_use_id:
        return ""
    end = _PREVIOUS_ENDS.get(restored.previous_end, "has ended")
    sentences = [f"this is a new sandbox: the one before it {end}", *_receipt(restored)]
    return "[" + ". ".join(sentences) + "]"


def _receipt(restored: Restored) -> Iterator[str]:
    if restored.taken_at is None:
        yield "Nothing of it was kept: its files and processes are gone"
        return
    moment = restored.taken_at.strftime("%Y-%m-%d %H:%M:%S UTC")
    if restored.problem is not None:
        yield f"What was kept of it at {moment} could not be put back: {restored.problem}"
    else:
        yield f"Restored as of {moment}: " + ", ".join(map(_kept, restored.folders))
    if restored.previous_end == "lost":
        yield "What changed after that is gone"
    for folder in restored.folders:
        if folder.missing_count:
            more = folder.missing_count - len(folder.missing)
            listed = "; ".join(folder.missing) + (f"; and {more} more" if more else "")
            yield f"Not kept of {folder.path}: {listed}"
    yield f"Not restored: {_NEVER_KEPT}"


def _kept(folder: KeptFolder) -> str:
    return f"{folder.path} ({folder.entries} entries, {folder.size_bytes} bytes)"


_ENDINGS = {
    "timeout": "[timed out; everything the command started was killed]",
    "killed": "[interrupted; everything the command started was killed]",
    "oom": "[killed: out of memory]",
    "lost": "[outcome unknown: the sandbox could not say how the command ended; check its effects]",
    "output_limit": "[killed: it wrote more output than is allowed]",
}


def described(
    tool_use_id: str,
    result: ExecResult,
    *,
    receipt: str = "",
    refusals: Sequence[str] = (),
    remembered: Sequence[str] = (),
) -> ToolOutcome:
    """A command's output and how it ended.

    ``receipt``: what became of the sandbox before this one. ``refusals``: what the command could not reach.
    ``remembered``: what became of its edits of memory.
    """
    parts = [
        receipt,
        result.stdout,
        f"[stderr]\n{result.stderr}" if result.stderr else "",
        f"[{result.dropped_bytes} bytes in the middle of the output were dropped]" if result.dropped_bytes else "",
        _ENDINGS.get(result.status, ""),
        _going_on(result),
        f"[exit code {result.exit_code}]" if result.status == "exited" and result.exit_code != 0 else "",
        *(f"[network] {sentence}" for sentence in refusals),
        *(f"[memory] {sentence}" for sentence in remembered),
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
