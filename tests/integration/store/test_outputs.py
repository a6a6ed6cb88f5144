"""What turns' ends say of the files that they find, and when each was found."""

from datetime import UTC, datetime
from typing import Any

from controlplane.store import outputs
from controlplane.store.outputs import PostgresOutputs
from controlplane.store.pool import Database
from sandbox.contract import FileStat
from tests.integration.store.conftest import WORKSPACE
from workflows.contracts import OutputsInput, TurnInput


async def told(database: Database, session_id: str, turn_id: str) -> dict[str, Any]:
    """What a turn's end says."""
    turn = TurnInput(session_id=session_id, workspace_id=WORKSPACE, turn_id=turn_id)
    async with database.transaction(WORKSPACE) as connection:
        return (await outputs.told(connection, turn)).get("outputs", {})


async def kept(database: Database, session_id: str, content: bytes) -> None:
    """Keep a file on behalf of the first turn."""
    wanted = OutputsInput(
        session_id=session_id, workspace_id=WORKSPACE, turn_id="turn_1", sandbox_id="sbx_1", tool_use_id="sevt_1"
    )
    now = datetime.now(UTC)
    file = FileStat(path="/x", type="file", size_bytes=len(content), mode=0o644, modified_at=now, changed_at=now)
    assert await PostgresOutputs(database).keep(wanted, "x", file=file, content=content, sha256=content * 32)


async def test_what_is_kept_when_its_turn_has_ended_is_told_at_the_end_of_the_next(
    database: Database, session_id: str
) -> None:
    assert await told(database, session_id, "turn_1") == {}
    await kept(database, session_id, b"1")
    (file,) = (await told(database, session_id, "turn_2"))["files"]
    assert file["path"] == "x"
    assert await told(database, session_id, "turn_3") == {}, "once"


async def test_what_changed_is_told_again_and_what_a_turns_end_did_not_record_was_not_told(
    database: Database, session_id: str
) -> None:
    await kept(database, session_id, b"1")
    (first,) = (await told(database, session_id, "turn_1"))["files"]
    await kept(database, session_id, b"2")
    turn = TurnInput(session_id=session_id, workspace_id=WORKSPACE, turn_id="turn_2")
    async with database.transaction(WORKSPACE) as connection:
        assert await outputs.told(connection, turn)
        await connection.rollback()
    (again,) = (await told(database, session_id, "turn_3"))["files"]
    assert again["file_id"] != first["file_id"]
