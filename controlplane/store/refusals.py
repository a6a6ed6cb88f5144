"""What a tool call was refused on its way out, for its result."""

from collections.abc import Sequence

from controlplane.store.decisions import denials
from controlplane.store.pool import Database, one
from workflows.contracts import ToolCallInput


class PostgresRefusals:
    """`workflows.records.Refusals` on Postgres."""

    def __init__(self, database: Database):
        self._database = database

    async def during(self, call: ToolCallInput, sandbox_id: str) -> Sequence[str]:
        """See `Refusals.during`."""
        async with self._database.transaction(call.workspace_id) as connection:
            row = await one(
                connection, "SELECT started_at FROM tool_calls WHERE id = %(id)s", {"id": call.tool_use_id}
            )
            if row is None or row["started_at"] is None:
                return []
            return await denials(connection, sandbox_id, tool_use_id=call.tool_use_id, since=row["started_at"])
