"""What sandboxes may reach, and with which credentials, as the egress proxy asks for it."""

import hashlib
import secrets
from collections import OrderedDict
from dataclasses import dataclass, field
from itertools import count
from typing import Any
from urllib.parse import urlsplit

from psycopg.rows import DictRow
from pydantic import SecretStr

from controlplane.definitions import EnvironmentConfig, LimitedNetwork, McpServer, Networking
from controlplane.errors import BulkheadError
from controlplane.store import authorities, credentials
from controlplane.store.line import Line
from controlplane.store.pool import ALL_WORKSPACES, Connection, Database, one, rows
from controlplane.vault.keyring import Keyring
from sandbox.egress.contract import AuthorityError, Binding, GrantedCredential, SandboxPolicy
from sandbox.egress.rules import is_listed

MAX_POLICIES = 4096
"""Policies held at once, a few KB each; far more than one proxy serves sandboxes."""

_STUB_BYTES = 20

PACKAGE_REGISTRIES = [
    "pypi.org",
    "files.pythonhosted.org",
    "registry.npmjs.org",
    "registry.yarnpkg.com",
    "deb.debian.org",
    "security.debian.org",
    "archive.ubuntu.com",
    "security.ubuntu.com",
    "ports.ubuntu.com",
    "crates.io",
    "index.crates.io",
    "static.crates.io",
    "proxy.golang.org",
    "sum.golang.org",
    "rubygems.org",
    "index.rubygems.org",
]
"""What ``allow_package_managers`` adds: where pip, npm, yarn, apt, cargo, go and gem look by themselves."""


@dataclass
class _Held:
    """A policy, what it was made from (as `line.CHANNEL` names it), and the secrets that were asked for since.

    ``gate``: the hash of what the sandbox says at a gate.
    """

    policy: SandboxPolicy
    sources: frozenset[str]
    gate: bytes | None = None
    secrets: dict[str, SecretStr] = field(default_factory=dict[str, SecretStr])


class PostgresPolicySource:
    """`sandbox.egress.contract.PolicySource` and `sandbox.egress.gate.GateKeys` on Postgres.

    A policy is held for as long as the line is up and has told of no change; without a line every look-up is a query.
    The epoch grows in this process whenever a policy is read that differs from the one before.
    """

    def __init__(self, *, database: Database, line: Line, keyring: Keyring):
        self._database = database
        self._line = line
        self._keyring = keyring
        self._held: OrderedDict[str, _Held] = OrderedDict()
        self._versions: OrderedDict[str, tuple[bytes, int]] = OrderedDict()
        self._epochs = count(1)
        self._changes = 0
        line.on_change(self._forget)

    async def policy(self, sandbox_id: str) -> SandboxPolicy | None:
        """See `PolicySource.policy`."""
        held = self._held.get(sandbox_id)
        if held is not None and self._line.is_up:
            return held.policy
        held = await self._read(sandbox_id)
        return held.policy if held else None

    async def gate_sha256(self, sandbox_id: str, *, fresh: bool = False) -> bytes | None:
        """See `GateKeys.gate_sha256`."""
        if fresh:
            held = await self._read(sandbox_id)
        else:
            held = self._held.get(sandbox_id) if self._line.is_up else None
        return held.gate if held else None

    async def secret(self, policy: SandboxPolicy, credential_id: str) -> SecretStr | None:
        """See `PolicySource.secret`; also None if anything has changed since ``policy`` was read."""
        held = self._held.get(policy.sandbox_id)
        if held is None or not self._line.is_up:
            held = await self._read(policy.sandbox_id)
        if held is None or held.policy.epoch != policy.epoch:
            return None
        if credential_id not in {each.credential_id for each in held.policy.credentials if not each.is_withdrawn}:
            return None
        if credential_id not in held.secrets:
            async with self._database.transaction(ALL_WORKSPACES) as connection:
                found = await credentials.reveal(connection, credential_id, keyring=self._keyring)
            if found is None:
                return None
            held.secrets[credential_id] = found
        return held.secrets[credential_id]

    async def authority_seed(self, session_id: str) -> bytes:
        """See `PolicySource.authority_seed`."""
        async with self._database.transaction(ALL_WORKSPACES) as connection:
            try:
                return await authorities.seed(connection, session_id, keyring=self._keyring)
            except BulkheadError as error:
                raise AuthorityError(f"{error.message}; {error.next_step or 'see the log'}") from error

    async def _read(self, sandbox_id: str) -> _Held | None:
        changes = self._changes
        async with self._database.transaction(ALL_WORKSPACES) as connection:
            row = await _policy_row(connection, sandbox_id)
        if row is None:
            self._held.pop(sandbox_id, None)
            return None
        gate = row.pop("gate_sha256")
        held = _Held(policy=_policy(row, self._epoch(sandbox_id, row)), sources=_sources(row), gate=gate)
        # What was notified while the query ran may be newer than what it read.
        if self._line.is_up and changes == self._changes:
            self._held[sandbox_id] = held
            while len(self._held) > MAX_POLICIES:
                self._held.popitem(last=False)
        return held

    def _epoch(self, sandbox_id: str, row: DictRow) -> int:
        version = hashlib.sha256(repr(row).encode()).digest()
        before = self._versions.get(sandbox_id)
        epoch = before[1] if before and before[0] == version else next(self._epochs)
        self._versions[sandbox_id] = (version, epoch)
        self._versions.move_to_end(sandbox_id)
        while len(self._versions) > MAX_POLICIES:
            self._versions.popitem(last=False)
        return epoch

    def _forget(self, source: str | None) -> None:
        self._changes += 1
        if source is None:
            self._held.clear()
            return
        for sandbox_id in [key for key, held in self._held.items() if source in held.sources]:
            del self._held[sandbox_id]


class PostgresAdmissions:
    """`sandbox.admission.AdmissionRecords` on Postgres."""

    def __init__(self, database: Database):
        self._database = database

    async def expect(self, sandbox_id: str, password_sha256: bytes) -> None:
        """See `AdmissionRecords.expect`."""
        async with self._database.transaction(ALL_WORKSPACES) as connection:
            await connection.execute(
                "UPDATE sandboxes SET gate_sha256 = %s WHERE id = %s AND status <> 'ended'",
                (password_sha256, sandbox_id),
            )


async def issue_stubs(connection: Connection, sandbox_id: str) -> dict[str, str]:
    """Return, for every credential that a sandbox's session grants, the variable's name and the stub that it holds.

    A stub is made once and stays; of two vaults with a credential of one name, the session's first counts. Empty for
    a sandbox that is unknown or ended.
    """
    granted = await rows(
        connection,
        """
        SELECT DISTINCT ON (c.name) c.name, c.id, b.workspace_id
          FROM sandboxes b
          JOIN sessions s ON s.id = b.session_id
         CROSS JOIN LATERAL jsonb_array_elements_text(s.vault_ids) WITH ORDINALITY AS wanted (vault_id, place)
          JOIN vaults v ON v.id = wanted.vault_id AND v.archived_at IS NULL
          JOIN credentials c ON c.vault_id = v.id AND c.archived_at IS NULL
         WHERE b.id = %(id)s AND b.status <> 'ended'
         ORDER BY c.name, wanted.place
        """,
        {"id": sandbox_id},
    )
    for row in granted:
        await connection.execute(
            "INSERT INTO sandbox_stubs (sandbox_id, credential_id, workspace_id, stub)"
            " VALUES (%(sandbox_id)s, %(credential_id)s, %(workspace_id)s, %(stub)s) ON CONFLICT DO NOTHING",
            {
                "sandbox_id": sandbox_id,
                "credential_id": row["id"],
                "workspace_id": row["workspace_id"],
                "stub": "bhstub_" + secrets.token_hex(_STUB_BYTES),
            },
        )
    issued = await rows(
        connection, "SELECT credential_id, stub FROM sandbox_stubs WHERE sandbox_id = %(id)s", {"id": sandbox_id}
    )
    stubs = {row["credential_id"]: row["stub"] for row in issued}
    return {row["name"]: stubs[row["id"]] for row in granted}


async def _policy_row(connection: Connection, sandbox_id: str) -> DictRow | None:
    return await one(
        connection,
        """
        SELECT b.id, b.session_id, b.workspace_id, s.environment_id, s.vault_ids, e.config,
               s.agent -> 'mcp_servers' AS mcp_servers,
               s.archived_at IS NOT NULL OR s.egress_revoked_at IS NOT NULL OR s.status = 'terminated'
               OR a.frozen_at IS NOT NULL OR (b.status = 'retiring' AND b.end_reason = 'halted') AS closed,
               s.agent_id, b.gate_sha256,
               coalesce((SELECT jsonb_agg(jsonb_build_object(
                                    'credential_id', k.credential_id, 'stub', k.stub, 'version', c.version,
                                    'name', coalesce(c.name, k.name), 'binding', coalesce(c.binding, k.binding),
                                    'withdrawn', c.archived_at IS NOT NULL OR v.archived_at IS NOT NULL
                                                 OR NOT coalesce(s.vault_ids ? v.id, false))
                                          ORDER BY k.credential_id)
                           FROM sandbox_stubs k
                           LEFT JOIN credentials c ON c.id = k.credential_id
                           LEFT JOIN vaults v ON v.id = c.vault_id
                          WHERE k.sandbox_id = b.id), '[]') AS credentials
          FROM sandboxes b
          JOIN sessions s ON s.id = b.session_id
          JOIN environments e ON e.id = s.environment_id
          JOIN agents a ON a.id = s.agent_id
         WHERE b.id = %(id)s AND b.status <> 'ended'
        """,
        {"id": sandbox_id},
    )


def _sources(row: DictRow) -> frozenset[str]:
    return frozenset(
        {f"sandbox {row['id']}", f"session {row['session_id']}", f"environment {row['environment_id']}"}
        | {f"agent {row['agent_id']}"}
        | {f"vault {vault_id}" for vault_id in row["vault_ids"]}
        | {f"credential {each['credential_id']}" for each in row["credentials"]}
    )


def _policy(row: DictRow, epoch: int) -> SandboxPolicy:
    who = {"sandbox_id": row["id"], "session_id": row["session_id"], "workspace_id": row["workspace_id"]}
    if row["closed"]:
        return SandboxPolicy(**who, networking="none", epoch=epoch)
    network = EnvironmentConfig.model_validate(row["config"]).networking
    return SandboxPolicy(
        **who,
        networking=network.type,
        allowed_hosts=_allowed_hosts(network, row["mcp_servers"] or []),
        credentials=[
            GrantedCredential(
                credential_id=each["credential_id"],
                name=each["name"],
                stub=each["stub"],
                binding=Binding.model_validate(each["binding"]),
                is_withdrawn=each["withdrawn"],
            )
            for each in row["credentials"]
        ],
        epoch=epoch,
    )


def reaches_something(config: dict[str, Any], mcp_servers: list[dict[str, Any]]) -> bool:
    """Tell whether an environment's configuration lets its sandboxes reach any host at all."""
    network = EnvironmentConfig.model_validate(config).networking
    return network.type == "unrestricted" or bool(_allowed_hosts(network, mcp_servers))


def blocked_servers(config: EnvironmentConfig, mcp_servers: list[McpServer]) -> list[str]:
    """Return the names of the MCP servers whose hosts an environment's network keeps its sandboxes from."""
    network = config.networking
    if not isinstance(network, LimitedNetwork):
        return []
    allowed = _allowed_hosts(network, [server.model_dump() for server in mcp_servers])
    return [each.name for each in mcp_servers if not is_listed(urlsplit(each.url).hostname or "", allowed)]


def _allowed_hosts(network: Networking, mcp_servers: list[dict[str, Any]]) -> list[str]:
    if not isinstance(network, LimitedNetwork):
        return []
    hosts = [host.lower() for host in network.allowed_hosts]
    if network.allow_package_managers:
        hosts += PACKAGE_REGISTRIES
    if network.allow_mcp_servers:
        hosts += [host for server in mcp_servers if (host := urlsplit(server["url"]).hostname)]
    return [*dict.fromkeys(hosts)]
