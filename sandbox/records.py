"""What is recorded of sandboxes: which a session has, which wait for one, and what is kept of those that ended."""

import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta
from typing import Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

from sandbox.contract import ProviderName, SandboxSpec

EndReason = Literal["idle", "stopped", "halted", "recycled", "archived", "lost", "provision_failed"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class Mount(_Frozen):
    """A session's file resource; written into the sandbox before its first command."""

    path: str
    file_id: str


class Wish(_Frozen):
    """The sandbox that a session's environment asks for."""

    provider: ProviderName | Literal["auto"] = "auto"
    spec: SandboxSpec = Field(default_factory=SandboxSpec)
    mounts: list[Mount] = Field(default_factory=list)
    way_out: bool = False
    """Whether there is a host that the session may reach, now or with a credential that it gets later."""


class Kind(_Frozen):
    """What a sandbox that is already up must share with the one that is asked for."""

    provider: ProviderName
    image_digest: str
    spec: SandboxSpec
    way_out: bool

    @property
    def key(self) -> str:
        """One string that says all of it; how long a sandbox lives can still be changed, so that is left out."""
        text = self.model_dump_json(exclude={"spec": {"lifetime_seconds"}})
        return hashlib.sha256(text.encode()).hexdigest()


class KeptFolder(_Frozen):
    """What a checkpoint holds of one folder; ``missing`` names some of what it does not, with the reason."""

    path: str
    entries: int
    size_bytes: int
    missing: list[str] = Field(default_factory=list)
    missing_count: int = 0


class Checkpoint(_Frozen):
    """What was kept of a session's sandbox."""

    id: str
    workspace_id: str
    taken_at: datetime
    folders: list[KeptFolder]


class Restored(_Frozen):
    """The restore receipt: what a sandbox has of the one before it, from when, and what it has not.

    ``taken_at`` None: nothing was kept. ``problem``: why what was kept could not be put back.
    """

    previous_end: EndReason
    taken_at: datetime | None = None
    folders: list[KeptFolder] = Field(default_factory=list)
    problem: str | None = None


class SandboxDetails(_Frozen):
    """What is known of a sandbox once it is up."""

    source: Literal["warm", "cold"] = "cold"
    isolation_effective: dict[str, bool | str] = Field(default_factory=dict)
    timings_ms: dict[str, float] = Field(default_factory=dict)
    way_out: bool = False
    """Whether the sandbox has been given the proxy's ear."""

    lifetime_seconds: int = 0
    restored: Restored | None = None

    @property
    def furnished(self) -> bool:
        """Whether it was ever given all that its first command may count on."""
        return self.lifetime_seconds > 0


class SandboxRow(_Frozen):
    """A session's sandbox as it is recorded. ``first_tool_use_id``: the call that it was provisioned for."""

    id: str
    session_id: str
    workspace_id: str
    provider: ProviderName
    host: str
    generation: int
    status: Literal["creating", "ready", "retiring", "ended"]
    end_reason: EndReason | None = None
    expires_at: datetime
    first_tool_use_id: str | None = None
    details: SandboxDetails = Field(default_factory=SandboxDetails)


class Exclusion(Protocol):
    """Keeps workers out of one another's way; implemented in `controlplane/store/exclusion.py`."""

    def hold(self, session_id: str) -> AbstractAsyncContextManager[None]:
        """Have nobody else within this for the same session, in this process or in another worker's.

        What its holder holds is free when the holder dies. Raises `SandboxError` (``engine_away``), and ends what
        runs within, as soon as others may be there too.
        """
        ...

    async def close(self) -> None:
        """Let go of everything."""
        ...


class SandboxRecords(Protocol):
    """The rows of sessions' sandboxes; implemented in `controlplane/store/sandboxes.py`."""

    async def wish(self, workspace_id: str, session_id: str) -> Wish:
        """Return what the session's environment and resources ask for."""
        ...

    async def claim(
        self, workspace_id: str, session_id: str, *, kind: Kind, host: str, tool_use_id: str
    ) -> SandboxRow:
        """Return the session's live row, touched as in `current`.

        If there is none, make one for that call: of a warm sandbox of that kind on that host, or of a new one.
        Raises `SandboxHaltedError` if one was halted after the call had been dispatched.
        """
        ...

    async def current(self, workspace_id: str, session_id: str, *, tool_use_id: str) -> SandboxRow | None:
        """Return the session's live row, touched, so that the reaper leaves it alone.

        The first call that asks becomes its ``first_tool_use_id``, and stays it.
        """
        ...

    async def previous(self, row: SandboxRow) -> EndReason | None:
        """Return why the session's last sandbox before this one ended; None if no command has ever run in one."""
        ...

    async def ready(self, row: SandboxRow, details: SandboxDetails) -> SandboxRow:
        """Record that the sandbox is up; raises `SandboxError` if it has been halted or ended in the meantime."""
        ...

    async def renewed(self, row: SandboxRow, expires_at: datetime) -> None:
        """Record a later deadline."""
        ...

    async def retire(self, row: SandboxRow, reason: EndReason) -> SandboxRow | None:
        """Record that the sandbox is to be put away; None if it is not live any more."""
        ...

    async def quiet(self, row: SandboxRow) -> None:
        """Record that every command in a sandbox has ended, and none begins any more."""
        ...

    async def end(self, row: SandboxRow, reason: EndReason) -> None:
        """Record that the sandbox is no more."""
        ...

    async def host_lives(self, host: str) -> bool:
        """Say whether a sandbox worker of that host lives."""
        ...

    async def end_archived(self, host: str) -> Sequence[SandboxRow]:
        """End the rows of this host whose session is archived; return them."""
        ...

    async def end_unfinished(self, host: str) -> Sequence[SandboxRow]:
        """End the rows of this host that were never ready and whose deadline has passed; return them."""
        ...

    async def retire_idle(self, host: str, *, idle: timedelta, expiring: timedelta) -> Sequence[SandboxRow]:
        """Retire the rows of this host that no call uses, and that none has used for so long or that expire so soon.

        Returns all that are retiring, also those that a dead worker has left.
        """
        ...

    async def live(self, host: str) -> Sequence[SandboxRow]:
        """Return the live rows of this host."""
        ...

    async def known(self, host: str) -> set[str]:
        """Return the ids of this host's sandboxes that a session has or that wait for one, as of one moment."""
        ...

    async def stubs(self, row: SandboxRow) -> dict[str, str]:
        """Return name → stub of every credential that the session may use now."""
        ...

    def file_content(self, workspace_id: str, file_id: str) -> AsyncIterator[bytes]:
        """Yield a file's content."""
        ...


class CheckpointRecords(Protocol):
    """What is kept of sandboxes; implemented in `controlplane/store/checkpoints.py`."""

    async def begin(self, row: SandboxRow) -> str:
        """Begin a checkpoint of a retiring sandbox, and return its id; earlier ones that were not completed go."""
        ...

    async def add(self, row: SandboxRow, checkpoint_id: str, *, folder: str, ordinal: int, content: bytes) -> None:
        """Keep a piece of it."""
        ...

    async def complete(self, row: SandboxRow, checkpoint_id: str, folders: Sequence[KeptFolder]) -> None:
        """Make it the session's checkpoint in place of the one before, and end the sandbox's row; one transaction."""
        ...

    async def newest(self, row: SandboxRow) -> Checkpoint | None:
        """Return the session's checkpoint."""
        ...

    def content(self, checkpoint: Checkpoint, folder: str) -> AsyncIterator[bytes]:
        """Yield the pieces of a folder in order."""
        ...


class WarmRecords(Protocol):
    """The rows of sandboxes that wait for a session; implemented in `controlplane/store/warm.py`."""

    async def reserve(self, host: str, kind: Kind, *, at_most: int) -> str | None:
        """Make a row for one more, unless the host has so many of that kind; return its id."""
        ...

    async def ready(self, sandbox_id: str) -> None:
        """Record that it is up and may be claimed."""
        ...

    async def drop(self, sandbox_id: str) -> None:
        """Forget one that did not come up."""
        ...

    async def drop_stale(
        self, host: str, *, wanted: Sequence[str], unwanted_for: timedelta, unready_for: timedelta
    ) -> None:
        """Forget those of kinds not in ``wanted`` that have waited so long, and those so long in the making."""
        ...
