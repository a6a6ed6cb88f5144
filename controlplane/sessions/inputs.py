"""What is sent to a session: what it takes of it, now, and how that is recorded."""

from collections.abc import Iterator, Sequence
from typing import Any

from controlplane.checks import not_supported, refused, require_unarchived
from controlplane.errors import ConflictError, InvalidRequestError
from controlplane.ids import shown_id
from controlplane.store import approvals, files, sessions
from controlplane.store.approvals import CallDecision
from controlplane.store.events import NewEvent
from controlplane.store.pool import Connection
from controlplane.wire.events import (
    Document,
    FileSource,
    Image,
    InputEvent,
    SystemMessage,
    UserCustomToolResult,
    UserDefineOutcome,
    UserInterrupt,
    UserMessage,
    UserToolConfirmation,
    UserToolResult,
    payload,
)


def check_inputs(inputs: Sequence[InputEvent], field: str) -> None:
    """Refuse what this version cannot do, and system messages that accompany nothing."""
    for index, event in enumerate(inputs):
        at = f"{field}.{index}"
        if isinstance(event, UserDefineOutcome):
            raise not_supported(f"{at}.type", "outcomes are", next_step="say in a user.message what is to be done")
        if isinstance(event, UserToolResult):
            raise refused(
                f"{at}.type",
                "results of built-in tools come from self-hosted environments only",
                code="not_supported",
                next_step="use user.custom_tool_result for custom tools",
            )
        if isinstance(event, SystemMessage):
            _check_accompanied(inputs, index, at)


def _check_accompanied(inputs: Sequence[InputEvent], index: int, at: str) -> None:
    last = index == len(inputs) - 1
    if not last or index == 0 or not isinstance(inputs[index - 1], UserMessage | UserCustomToolResult):
        raise refused(
            at,
            "a system.message is the last event, right after the user.message or result that it accompanies",
            code="system_message_misplaced",
            next_step="send it in the same request, after that event",
        )


async def recorded_inputs(
    connection: Connection, session_id: str, inputs: Sequence[InputEvent], field: str, *, by: str
) -> list[NewEvent]:
    """Return ``inputs`` ready to be recorded; raises if one refers to something that is not there, or does not wait.

    ``by``: whose the decisions among them are.
    """
    await _check_files(connection, inputs, field)
    return [
        await _recorded_input(connection, session_id, event, f"{field}.{index}", by=by)
        for index, event in enumerate(inputs)
    ]


def _file_references(inputs: Sequence[InputEvent]) -> Iterator[tuple[str, str]]:
    for index, event in enumerate(inputs):
        blocks: Sequence[Any] = event.content if isinstance(event, UserMessage | UserCustomToolResult) else []
        for place, block in enumerate(blocks):
            if isinstance(block, Image | Document) and isinstance(block.source, FileSource):
                yield f"{index}.content.{place}.source.file_id", block.source.file_id


async def _check_files(connection: Connection, inputs: Sequence[InputEvent], field: str) -> None:
    references = list(_file_references(inputs))
    missing = await files.missing(connection, [file_id for _, file_id in references]) if references else []
    for place, file_id in references:
        if file_id in missing:
            raise refused(
                f"{field}.{place}",
                f"no file {shown_id(file_id)!r}",
                code="file_not_found",
                next_step="upload the file first",
            )


async def _recorded_input(
    connection: Connection, session_id: str, event: InputEvent, at: str, *, by: str
) -> NewEvent:
    match event:
        case UserToolConfirmation():
            decision = CallDecision(
                tool_use_id=event.tool_use_id, kind=event.result, by=by, deny_message=event.deny_message
            )
            await approvals.decide(connection, session_id, decision, field=f"{at}.tool_use_id")
            return decision.confirmation()
        case UserCustomToolResult():
            decision = CallDecision(tool_use_id=event.custom_tool_use_id, kind="result", by=by)
            await approvals.decide(connection, session_id, decision, field=f"{at}.custom_tool_use_id")
        case UserInterrupt():
            _check_thread(event, session_id, at)
        case _:
            pass
    return NewEvent(type=event.type, payload=payload(event), queued=True)


def _check_thread(event: UserInterrupt, session_id: str, at: str) -> None:
    if event.session_thread_id not in (None, "sthr_" + session_id.removeprefix("sesn_")):
        raise refused(
            f"{at}.session_thread_id", "no such thread in this session", code="thread_not_found",
            next_step="omit the field",
        )  # fmt: skip


async def check_open(connection: Connection, session_id: str, expected_seq: int | None = None) -> None:
    """Refuse inputs of a session that takes none, and hold it until the caller's transaction ends."""
    gate = await sessions.gate(connection, session_id)
    require_unarchived("session", session_id, gate.archived_at)
    if gate.status == "terminated":
        raise InvalidRequestError(
            f"session {session_id!r} has ended",
            code="session_terminated",
            field="session_id",
            next_step="create a new session",
        )
    if expected_seq is not None and expected_seq != gate.last_seq:
        raise ConflictError(
            f"the session is at seq {gate.last_seq}, not {expected_seq}",
            code="seq_mismatch",
            field="expected_seq",
            next_step="read the events that came in between, then decide again",
        )
