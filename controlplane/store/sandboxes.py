"""Sandboxes: the row that comes before each, and what the environment of a session asks for."""

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any

from psycopg.types.json import Jsonb

from controlplane.ids import new_id
from controlplane.store.egress import issue_stubs, reaches_something
from controlplane.store.fence import lock_session
from controlplane.store.pool import ALL_WORKSPACES, Connection, Database, one, rows
from sandbox.contract import SandboxError, SandboxSpec
from sandbox.keeper import Mount, SandboxRow, Wish


class PostgresSandboxes:
    """`sandbox.keeper.SandboxRecords` on Postgres."""

    def __init__(self, database: Database):
        self._database = database

    async def wish(self, workspace_id: str, session_id: str) -> Wish:
        """See `SandboxRecords.wish`."""
        async with self._database.transaction(workspace_id) as connection:
            row = await one(
                connection,
                "SELECT e.config, s.vault_ids, s.agent -> 'mcp_servers' AS mcp_servers FROM sessions s"
                " JOIN environments e ON e.id = s.environment_id WHERE s.id = %(id)s",
                {"id": session_id},
            )
            if row is None:
                raise SandboxError(f"session {session_id!r} is gone", code="provision_failed")
            mounts = await rows(
                connection,
                "SELECT config ->> 'mount_path' AS path, config ->> 'file_id' AS file_id FROM session_resources"
                " WHERE session_id = %(id)s AND type = 'file' ORDER BY created_at, id",
                {"id": session_id},
            )
        config: dict[str, Any] = row["config"]
        asked = {name: config[name] for name in SandboxSpec.model_fields if config.get(name) is not None}
        return Wish(
            provider=config.get("provider") or "auto",
            spec=SandboxSpec.model_validate(asked),
            mounts=[Mount.model_validate(mount) for mount in mounts],
            way_out=bool(row["vault_ids"]) or reaches_something(config, row["mcp_servers"] or []),
        )

    async def claim(
        self, workspace_id: str, session_id: str, *, provider: str, host: str, expires_at: datetime
    ) -> SandboxRow:
        """See `SandboxRecords.claim`."""
        async with self._database.transaction(workspace_id) as connection:
            await lock_session(connection, session_id)
            if (live := await _live(connection, session_id)) is not None:
                return live
            row = await one(
                connection,
                "INSERT INTO sandboxes (id, workspace_id, session_id, environment_id, provider, host, generation,"
                " status, expires_at) SELECT %(id)s, s.workspace_id, s.id, s.environment_id, %(provider)s, %(host)s,"
                " 1 + coalesce((SELECT max(generation) FROM sandboxes WHERE session_id = s.id), 0), 'creating',"
                " %(expires_at)s FROM sessions s WHERE s.id = %(session_id)s"
                " RETURNING id, session_id, workspace_id, provider, host, generation, status, expires_at, details",
                {
                    "id": new_id("sbx"),
                    "session_id": session_id,
                    "provider": provider,
                    "host": host,
                    "expires_at": expires_at,
                },
            )
            return SandboxRow.model_validate(row)

    async def current(self, workspace_id: str, session_id: str) -> SandboxRow | None:
        """See `SandboxRecords.current`."""
        async with self._database.transaction(workspace_id) as connection:
            return await _live(connection, session_id)

    async def ready(self, row: SandboxRow, details: dict[str, Any]) -> None:
        """See `SandboxRecords.ready`."""
        async with self._database.transaction(row.workspace_id) as connection:
            await connection.execute(
                "UPDATE sandboxes SET status = 'ready', details = %s WHERE id = %s AND status = 'creating'",
                (Jsonb(details), row.id),
            )

    async def end(self, row: SandboxRow, reason: str) -> None:
        """See `SandboxRecords.end`."""
        async with self._database.transaction(row.workspace_id) as connection:
            await connection.execute(
                "UPDATE sandboxes SET status = 'ended', end_reason = %s, ended_at = clock_timestamp()"
                " WHERE id = %s AND status <> 'ended'",
                (reason, row.id),
            )

    async def host_lives(self, host: str) -> bool:
        """See `SandboxRecords.host_lives`."""
        async with self._database.transaction(ALL_WORKSPACES) as connection:
            found = await one(
                connection, "SELECT FROM workers WHERE kind = 'sandbox' AND host = %(host)s LIMIT 1", {"host": host}
            )
            return found is not None

    async def end_idle(self, host: str, *, idle: timedelta) -> list[SandboxRow]:
        """See `SandboxRecords.end_idle`."""
        async with self._database.transaction(ALL_WORKSPACES) as connection:
            found = await rows(
                connection,
                "UPDATE sandboxes b SET status = 'ended', end_reason = 'idle', ended_at = clock_timestamp()"
                " FROM sessions s WHERE s.id = b.session_id AND b.host = %(host)s AND b.status <> 'ended'"
                " AND (b.last_used_at < clock_timestamp() - %(idle)s::interval OR s.archived_at IS NOT NULL)"
                " AND NOT EXISTS (SELECT FROM tool_calls c WHERE c.session_id = b.session_id"
                " AND c.state = 'dispatched') RETURNING b.id, b.session_id, b.workspace_id, b.provider, b.host,"
                " b.generation, b.status, b.expires_at, b.details",
                {"host": host, "idle": idle},
            )
        return [SandboxRow.model_validate(row) for row in found]

    async def live(self, host: str) -> list[SandboxRow]:
        """See `SandboxRecords.live`."""
        async with self._database.transaction(ALL_WORKSPACES) as connection:
            found = await rows(
                connection,
                "SELECT id, session_id, workspace_id, provider, host, generation, status, expires_at, details"
                " FROM sandboxes WHERE host = %(host)s AND status <> 'ended'",
                {"host": host},
            )
        return [SandboxRow.model_validate(row) for row in found]

    async def stubs(self, row: SandboxRow) -> dict[str, str]:
        """See `SandboxRecords.stubs`."""
        async with self._database.transaction(row.workspace_id) as connection:
            return await issue_stubs(connection, row.id)

    async def file_content(self, workspace_id: str, file_id: str) -> AsyncIterator[bytes]:
        """See `SandboxRecords.file_content`."""
        ordinal = 0
        while True:
            async with self._database.transaction(workspace_id) as connection:
                row = await one(
                    connection,
                    "SELECT content FROM file_chunks WHERE file_id = %(id)s AND ordinal = %(ordinal)s",
                    {"id": file_id, "ordinal": ordinal},
                )
            if row is None:
                return
            yield row["content"]
            ordinal += 1


async def _live(connection: Connection, session_id: str) -> SandboxRow | None:
    row = await one(
        connection,
        "UPDATE sandboxes SET last_used_at = clock_timestamp() WHERE session_id = %(id)s AND status <> 'ended'"
        " RETURNING id, session_id, workspace_id, provider, host, generation, status, expires_at, details",
        {"id": session_id},
    )
    return SandboxRow.model_validate(row) if row else None
