"""What the proxy is told of a sandbox, and what it tells; on Postgres in `controlplane/store/egress.py`."""

from typing import Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, SecretStr


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class Binding(_Frozen):
    """Where a credential may be used. ``hosts``: exact names, or ``*.`` and a name for one more label; never empty.

    ``methods`` and ``path_prefixes`` None: all. ``header``, ``body`` and ``query_parameter`` say where in a request
    the stub is swapped; anywhere else it is refused.
    """

    hosts: list[str] = Field(min_length=1)
    methods: list[str] | None = None
    path_prefixes: list[str] | None = None
    header: bool = True
    body: bool = False
    query_parameter: str | None = None


class GrantedCredential(_Frozen):
    """A credential that the sandbox holds a stub of.

    Its secret is asked for when a request is to be swapped, and when a bound host's answer is to be searched for it.
    """

    credential_id: str
    name: str
    """The environment variable that carries the stub; also how the audit names the credential."""
    stub: str
    """``bhstub_`` and at least 128 random bits, in letters and digits; this sandbox's own."""
    binding: Binding
    is_withdrawn: bool = False
    """It may not be used any more. Hosts that it was bound to are still read along: its stub must not get there."""


class SandboxPolicy(_Frozen):
    """What one sandbox may do now. ``networking`` none: nothing, which is also what a revoked egress means."""

    sandbox_id: str
    session_id: str
    workspace_id: str
    networking: Literal["none", "limited", "unrestricted"]
    allowed_hosts: list[str] = Field(default_factory=list)
    """For ``limited``: exact names, or ``*.`` and a name for any subdomain; ports 80 and 443."""
    credentials: list[GrantedCredential] = Field(default_factory=list)
    epoch: int = 0
    """Grows with every change of anything above, so that one comparison tells whether a decision still holds."""


Verdict = Literal["allowed", "denied", "failed", "cut"]


class AuditEntry(_Frozen):
    """One decision, or what became of it. Names and never values; ``path`` without its query, at most 512 characters.

    What is allowed is recorded before it happens (``ended`` False) and again under the same ``exchange_id`` when it
    has ended, with its figures and the verdict that it came to; where the second entry is missing, the outcome is
    unknown. What is denied is recorded once, as ended.
    """

    exchange_id: str = ""
    ended: bool = True
    sandbox_id: str
    session_id: str
    workspace_id: str
    method: str
    host: str
    port: int
    path: str | None = None
    """None for an opaque tunnel."""
    credential: str | None = None
    verdict: Verdict
    reason: str
    """A stable code, such as ``host_not_allowed``."""
    message: str
    """A sentence for the model: what was refused, why, and what to do."""
    status: int | None = None
    """The upstream's, where there was one."""
    bytes_up: int = 0
    bytes_down: int = 0
    duration_ms: float = 0


class AuthorityError(Exception):
    """A session's authority cannot be made, and waiting does not help: the message says why, and what to do."""


class PolicySource(Protocol):
    """Says what sandboxes may do. An error of any kind means that nothing is allowed."""

    async def policy(self, sandbox_id: str) -> SandboxPolicy | None:
        """Return what the sandbox may do now, None if it is unknown or ended; fresh, or known to be still true."""
        ...

    async def secret(self, policy: SandboxPolicy, credential_id: str) -> SecretStr | None:
        """Return a granted credential's secret, None if it may not be used any more."""
        ...

    async def authority_seed(self, session_id: str) -> bytes:
        """Return 32 secret bytes, the same for a session in every process: its CA's key is derived from them.

        Raises `AuthorityError` where somebody has to do something first.
        """
        ...


class AuditSink(Protocol):
    """Keeps decisions."""

    async def record(self, entry: AuditEntry) -> None:
        """Record an entry; raises if it cannot be, and then what it decided must not happen."""
        ...
