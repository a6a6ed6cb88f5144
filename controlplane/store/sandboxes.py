"""Sandboxes: the row that comes before each, and what the environment of a session asks for."""

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any

from psycopg.types.json import Jsonb

from controlplane.ids import new_id
from controlplane.store import files, warm
from controlplane.store.clearing import is_cleared
from controlplane.store.egress import issue_stubs, reaches_something
from controlplane.store.fence import lock_session
from controlplane.store.pool import ALL_WORKSPACES, Connection, Database, one, rows
from sandbox.contract import SandboxError, SandboxHaltedError, SandboxSpec
from sandbox.records import EndReason, Kind, Mount, SandboxDetails, SandboxRow, Wish

HALTED = "bulkhead_halted"
"""Notified with the host of a sandbox that is to be put away at once."""


class PostgresSandboxes:
    """`sandbox.records.SandboxRecords` on Postgres."""

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
        self, workspace_id: str, session_id: str, *, kind: Kind, host: str, tool_use_id: str
    ) -> SandboxRow:
        """See `SandboxRecords.claim`."""
        async with self._database.transaction(workspace_id) as connection:
            await lock_session(connection, session_id)
            if (live := await _live(connection, session_id, tool_use_id)) is not None:
                return live
            await _refuse_halted(connection, session_id, tool_use_id)
            if await is_cleared(connection, host):
                raise SandboxError(f"all sandboxes of host {host!r} are being ended; try again", code="engine_away")
            warm_id = await warm.claim(connection, host=host, kind=kind)
            row = await one(
                connection,
                "INSERT INTO sandboxes (id, workspace_id, session_id, environment_id, provider, host, generation,"
                " status, expires_at, first_tool_use_id, details)"
                " SELECT %(id)s, s.workspace_id, s.id, s.environment_id, %(provider)s, %(host)s,"
                " 1 + coalesce((SELECT max(generation) FROM sandboxes WHERE session_id = s.id), 0), 'creating',"
                " clock_timestamp() + make_interval(secs => %(lifetime_seconds)s), %(tool_use_id)s, %(details)s"
                " FROM sessions s WHERE s.id = %(session_id)s RETURNING *",
                {
                    "id": warm_id or new_id("sbx"),
                    "session_id": session_id,
                    "provider": kind.provider,
                    "host": host,
                    "lifetime_seconds": kind.spec.lifetime_seconds,
                    "tool_use_id": tool_use_id,
                    "details": Jsonb({"source": "warm" if warm_id else "cold"}),
                },
            )
            return SandboxRow.model_validate(row)

    async def current(self, workspace_id: str, session_id: str, *, tool_use_id: str) -> SandboxRow | None:
        """See `SandboxRecords.current`."""
        async with self._database.transaction(workspace_id) as connection:
            return await _live(connection, session_id, tool_use_id)

    async def previous(self, row: SandboxRow) -> EndReason | None:
        """See `SandboxRecords.previous`."""
        async with self._database.transaction(row.workspace_id) as connection:
            found = await one(
                connection,
                "SELECT end_reason FROM sandboxes WHERE session_id = %(session_id)s AND generation < %(generation)s"
                " AND end_reason <> 'provision_failed' ORDER BY generation DESC LIMIT 1",
                {"session_id": row.session_id, "generation": row.generation},
            )
        return found["end_reason"] if found else None

    async def ready(self, row: SandboxRow, details: SandboxDetails) -> SandboxRow:
        """See `SandboxRecords.ready`."""
        async with self._database.transaction(row.workspace_id) as connection:
            found = await one(
                connection,
                "UPDATE sandboxes SET status = CASE status WHEN 'creating' THEN 'ready' ELSE status END,"
                " details = %(details)s WHERE id = %(id)s RETURNING *",
                {"id": row.id, "details": Jsonb(details.model_dump(mode="json"))},
            )
        if found is not None and found["halted_at"] is not None:
            raise SandboxHaltedError(row.id)
        if found is None or found["status"] != "ready":
            raise SandboxError(f"sandbox {row.id!r} was ended while it was made", code="provision_failed")
        return SandboxRow.model_validate(found)

    async def renewed(self, row: SandboxRow, expires_at: datetime) -> None:
        """See `SandboxRecords.renewed`."""
        async with self._database.transaction(row.workspace_id) as connection:
            await connection.execute("UPDATE sandboxes SET expires_at = %s WHERE id = %s", (expires_at, row.id))

    async def retire(self, row: SandboxRow, reason: EndReason) -> SandboxRow | None:
        """See `SandboxRecords.retire`."""
        async with self._database.transaction(row.workspace_id) as connection:
            return await retire(connection, row.id, reason)

    async def quiet(self, row: SandboxRow) -> None:
        """See `SandboxRecords.quiet`."""
        async with self._database.transaction(row.workspace_id) as connection:
            await connection.execute(
                "UPDATE sandboxes SET quiet_at = coalesce(quiet_at, clock_timestamp()) WHERE id = %s", (row.id,)
            )

    async def end(self, row: SandboxRow, reason: EndReason) -> None:
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

    async def end_archived(self, host: str) -> list[SandboxRow]:
        """See `SandboxRecords.end_archived`."""
        async with self._database.transaction(ALL_WORKSPACES) as connection:
            found = await rows(
                connection,
                "UPDATE sandboxes b SET status = 'ended', end_reason = 'archived', ended_at = clock_timestamp()"
                " FROM sessions s WHERE s.id = b.session_id AND b.host = %(host)s AND b.status <> 'ended'"
                " AND s.archived_at IS NOT NULL AND NOT EXISTS (SELECT FROM tool_calls c"
                " WHERE c.session_id = b.session_id AND c.state = 'dispatched') RETURNING b.*",
                {"host": host},
            )
        return [SandboxRow.model_validate(row) for row in found]

    async def end_unfinished(self, host: str) -> list[SandboxRow]:
        """See `SandboxRecords.end_unfinished`."""
        async with self._database.transaction(ALL_WORKSPACES) as connection:
            found = await rows(
                connection,
                "UPDATE sandboxes SET status = 'ended', end_reason = 'provision_failed', ended_at = clock_timestamp()"
                " WHERE host = %(host)s AND status = 'creating' AND expires_at < clock_timestamp() RETURNING *",
                {"host": host},
            )
        return [SandboxRow.model_validate(row) for row in found]

    async def retire_idle(self, host: str, *, idle: timedelta, expiring: timedelta) -> list[SandboxRow]:
        """See `SandboxRecords.retire_idle`."""
        async with self._database.transaction(ALL_WORKSPACES) as connection:
            await connection.execute(
                "UPDATE sandboxes b SET status = 'retiring', end_reason = 'idle'"
                " WHERE b.host = %(host)s AND b.status = 'ready' AND NOT EXISTS (SELECT FROM tool_calls c"
                " WHERE c.session_id = b.session_id AND c.state = 'dispatched')"
                " AND (b.last_used_at < clock_timestamp() - %(idle)s::interval"
                " OR b.expires_at < clock_timestamp() + %(expiring)s::interval)",
                {"host": host, "idle": idle, "expiring": expiring},
            )
            found = await rows(
                connection,
                "SELECT * FROM sandboxes WHERE host = %(host)s AND status = 'retiring'",
                {"host": host},
            )
        return [SandboxRow.model_validate(row) for row in found]

    async def live(self, host: str) -> list[SandboxRow]:
        """See `SandboxRecords.live`."""
        async with self._database.transaction(ALL_WORKSPACES) as connection:
            found = await rows(
                connection,
                "SELECT * FROM sandboxes WHERE host = %(host)s AND status <> 'ended'",
                {"host": host},
            )
        return [SandboxRow.model_validate(row) for row in found]

    async def known(self, host: str) -> set[str]:
        """See `SandboxRecords.known`."""
        async with self._database.transaction(ALL_WORKSPACES) as connection:
            # One statement sees one moment: a claim moves an id from one table to the other.
            found = await rows(
                connection,
                "SELECT id FROM sandboxes WHERE host = %(host)s AND status <> 'ended'"
                " UNION ALL SELECT id FROM warm_sandboxes WHERE host = %(host)s",
                {"host": host},
            )
        return {row["id"] for row in found}

    async def stubs(self, row: SandboxRow) -> dict[str, str]:
        """See `SandboxRecords.stubs`."""
        async with self._database.transaction(row.workspace_id) as connection:
            return await issue_stubs(connection, row.id)

    async def file_content(self, workspace_id: str, file_id: str) -> AsyncIterator[bytes]:
        """See `SandboxRecords.file_content`."""
        ordinal = 0
        while True:
            # Not in one transaction: a slow sandbox would hold a connection for as long as it takes.
            async with self._database.transaction(workspace_id) as connection:
                content = await files.chunk(connection, file_id, ordinal)
            if not content:
                return
            yield content
            ordinal += 1


async def _refuse_halted(connection: Connection, session_id: str, tool_use_id: str) -> None:
    row = await one(
        connection,
        "SELECT b.id FROM sandboxes b JOIN tool_calls c ON c.session_id = b.session_id"
        " WHERE b.session_id = %(session_id)s AND c.id = %(tool_use_id)s AND b.halted_at > c.dispatched_at LIMIT 1",
        {"session_id": session_id, "tool_use_id": tool_use_id},
    )
    if row is not None:
        raise SandboxHaltedError(row["id"])


async def _live(connection: Connection, session_id: str, tool_use_id: str) -> SandboxRow | None:
    row = await one(
        connection,
        "UPDATE sandboxes SET last_used_at = clock_timestamp(),"
        " first_tool_use_id = coalesce(first_tool_use_id, %(tool_use_id)s)"
        " WHERE session_id = %(id)s AND status <> 'ended' RETURNING *",
        {"id": session_id, "tool_use_id": tool_use_id},
    )
    return SandboxRow.model_validate(row) if row else None


async def retire(connection: Connection, sandbox_id: str, reason: EndReason) -> SandboxRow | None:
    """Have nothing further run in a sandbox, which is to be put away; None if it has ended."""
    found = await one(
        connection,
        "UPDATE sandboxes SET status = 'retiring', end_reason = coalesce(end_reason, %(reason)s)"
        " WHERE id = %(id)s AND status IN ('ready', 'retiring') RETURNING *",
        {"id": sandbox_id, "reason": reason},
    )
    return SandboxRow.model_validate(found) if found else None
