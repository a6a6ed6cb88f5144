"""What every sandbox provider does; the same suite in `tests/integration/sandbox` runs on each."""

import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime
from typing import Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

ProviderName = Literal["namespace", "docker", "kubernetes"]


class SandboxError(Exception):
    """A provider could not do what was asked.

    ``code`` is stable: ``provision_failed``, ``sandbox_lost``, ``sandbox_stopped``, ``sandbox_full`` (it can remember
    no further command, and needs a successor), ``exec_not_found``, ``exec_not_running``, ``stdin_closed``,
    ``stdin_full``, ``file_not_found``, ``file_refused``, ``archive_refused``, ``bad_request``, ``engine_away``,
    ``egress_away``. What keeps sandboxes adds ``wrong_host`` and ``sandbox_halted`` (`sandbox/keeper.py`).
    """

    def __init__(self, message: str, *, code: str):
        super().__init__(message)
        self.code = code


class SandboxLostError(SandboxError):
    """The sandbox is not there any more; what ran in it is unknown."""

    def __init__(self, message: str):
        super().__init__(message, code="sandbox_lost")


class SandboxHaltedError(SandboxError):
    """A person has had the session's sandbox stopped before a call was begun that had been dispatched by then."""

    def __init__(self, sandbox_id: str):
        super().__init__(f"sandbox {sandbox_id!r} was stopped by a person", code="sandbox_halted")


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class SandboxSpec(_Frozen):
    """What a sandbox is to be. ``image`` None: the provider's default."""

    image: str | None = None
    cpus: float = 1.0
    memory_mb: int = 1024
    workspace_mb: int = 2048
    pids: int = 256
    lifetime_seconds: int = 4 * 3600


class SandboxInfo(_Frozen):
    """A sandbox that is up. ``isolation_effective``: each control and whether it took effect on this machine."""

    sandbox_id: str
    provider: ProviderName
    isolation_effective: dict[str, bool | str]
    timings_ms: dict[str, float] = Field(default_factory=dict)


class ExecRequest(_Frozen):
    """A command. ``exec_id`` is the caller's: a repeat attaches to the first run and never runs it again."""

    exec_id: str
    command: str
    """Given to ``bash -lc`` where the sandbox has bash, else to ``sh -c``."""
    cwd: str = "/workspace"
    env: dict[str, str] = Field(default_factory=dict)
    stdin: str | None = None
    keep_stdin_open: bool = False
    """After ``stdin`` the command waits for `SandboxProvider.write_stdin` instead of reading the end."""
    timeout_seconds: float = 120
    """From its start, also for a command that goes on in the background."""
    yield_after_seconds: float | None = None
    """`SandboxProvider.execute` returns so long after the command's start at the latest; the command goes on."""
    max_output_bytes: int = 64 * 1024
    """For stdout and stderr each: beyond it the middle is dropped, head and tail are kept."""


ExecStatus = Literal["exited", "running", "timeout", "killed", "oom", "lost", "output_limit"]


class ExecResult(_Frozen):
    """What a command came to, or has so far; ``exit_code`` is None unless ``status`` is ``exited``."""

    exec_id: str
    status: ExecStatus
    exit_code: int | None = None
    stdout: str = ""
    stderr: str = ""
    dropped_bytes: int = 0
    """Missing in ``stdout`` and ``stderr`` where a mark says so: they fell out of what is kept."""
    unread_bytes: int = 0
    """Printed, kept, and not in this result: `SandboxProvider.read_output` has them from ``cursor`` on."""
    cursor: str = ""
    """Where reading goes on."""
    duration_ms: float = 0
    survivors: int = 0
    """Processes of this command still alive when it ended (started in the background, or beyond killing)."""

    @property
    def must_recycle(self) -> bool:
        """Whether something is alive that was to be killed: the sandbox must then be replaced by another."""
        return self.survivors > 0 and self.status not in {"exited", "running"}


class ExecInfo(_Frozen):
    """A command that a sandbox knows, without its output."""

    exec_id: str
    status: ExecStatus
    exit_code: int | None = None
    duration_ms: float
    survivors: int
    output_bytes: int
    """What it printed on both streams, kept or not."""


SignalName = Literal["HUP", "INT", "QUIT", "USR1", "USR2", "TERM", "KILL", "STOP", "CONT"]


class ExecState(_Frozen):
    """What the sandbox knows of an exec id."""

    state: Literal["never_started", "running", "finished"]
    result: ExecResult | None = None


class FileStat(_Frozen):
    """A file or folder inside a sandbox."""

    path: str
    type: Literal["file", "folder", "symlink", "other"]
    size_bytes: int
    mode: int
    modified_at: datetime
    changed_at: datetime | None = None
    """When its content or anything else about it last changed; no command can set it."""


class ArchiveReceipt(_Frozen):
    """What an archive has, and what was left out of it."""

    entries: int
    bytes: int
    skipped: list[str] = Field(default_factory=list)
    """The first of what was left out or changed on the way, each with the reason."""
    skipped_count: int = 0


class SandboxProvider(Protocol):
    """Starts, finds, uses and ends sandboxes of one kind on this host.

    Every method is safe to repeat. A sandbox outlives the process that made it: any instance of the provider on the
    same host finds it again by its id. Every method but ``provision``, ``list_ids`` and ``destroy`` raises
    `SandboxLostError` when the sandbox is gone.
    """

    name: ProviderName

    async def provision(self, sandbox_id: str, spec: SandboxSpec) -> SandboxInfo:
        """Start the sandbox, prove that it cannot reach the network, and return it; a repeat returns the same one.

        Raises `SandboxError` (``provision_failed``) and leaves nothing behind if it cannot be had as asked.
        """
        ...

    async def image_digest(self, image: str | None) -> str:
        """Return what a sandbox of that image is made of now; two that have the same can stand for one another.

        Raises `SandboxError` (``provision_failed``) if the image cannot be had, ``engine_away``.
        """
        ...

    async def ear(self, sandbox_id: str) -> socket.socket:
        """Return the sandbox's ear: a listening socket on its own loopback, at `supervisor.ear.ADDRESS`.

        Every call returns the same socket, also to another process; it stays open inside the sandbox when the caller
        closes it. Raises `SandboxError` (``provision_failed``) with the reason where this host cannot get at it.
        """
        ...

    async def execute(self, sandbox_id: str, request: ExecRequest) -> ExecResult:
        """Run the command, or attach to the run of the same exec id, and wait for its end or until it is to yield.

        If the result says `ExecResult.must_recycle`, the caller is to destroy the sandbox and go on in another.
        Raises `SandboxError` (``sandbox_stopped``, ``sandbox_full``) for a new exec id that cannot run any more.
        """
        ...

    async def read_output(
        self,
        sandbox_id: str,
        exec_id: str,
        *,
        cursor: str = "",
        wait_seconds: float = 0,
        max_output_bytes: int = 65536,
    ) -> ExecResult:
        """Return what a command has printed since the cursor, at most so much of each stream (512 bytes or more).

        With ``wait_seconds`` it waits for more output or the command's end. The same cursor gives the same bytes as
        long as they are kept. Raises `SandboxError` (``exec_not_found``).
        """
        ...

    async def write_stdin(
        self, sandbox_id: str, exec_id: str, data: bytes, *, write_id: str, close: bool = False
    ) -> None:
        """Give a running command more input, all of it or none, and once for each ``write_id``; does not wait.

        Raises `SandboxError`: ``exec_not_found``, ``exec_not_running``, ``stdin_closed``, or ``stdin_full`` if the
        command has too much to read already.
        """
        ...

    async def signal(self, sandbox_id: str, exec_id: str, name: SignalName, *, signal_id: str) -> None:
        """Signal a running command's process group, once for each ``signal_id``; ``KILL`` is `kill`.

        Raises `SandboxError`: ``exec_not_found``, ``exec_not_running``.
        """
        ...

    async def list_execs(self, sandbox_id: str) -> list[ExecInfo]:
        """Return the commands that run and the latest that have ended, 1000 at most, running and newest first."""
        ...

    async def exec_state(self, sandbox_id: str, exec_id: str) -> ExecState:
        """Say what became of an exec id; starts nothing."""
        ...

    async def kill(self, sandbox_id: str, exec_id: str) -> None:
        """End a command's whole tree and return when it has ended; a running command's result is then ``killed``.

        Also ends what a finished command has left in the background; its result stays as it was.
        """
        ...

    async def write_file(
        self, sandbox_id: str, path: str, content: AsyncIterator[bytes], *, mode: int = 0o644
    ) -> int:
        """Write a file whole (through a temporary name and a rename), make its folders, return its size in bytes."""
        ...

    def read_file(self, sandbox_id: str, path: str) -> AsyncIterator[bytes]:
        """Yield a regular file's content in chunks."""
        ...

    async def list_files(self, sandbox_id: str, path: str) -> list[FileStat]:
        """Return the entries of a folder, or the one entry of a file."""
        ...

    async def stat_file(self, sandbox_id: str, path: str) -> FileStat:
        """Return what a path is itself, also if it is a link. Raises `SandboxError` (``file_not_found``)."""
        ...

    async def read_archive(
        self, sandbox_id: str, path: str, *, max_bytes: int, sink: Callable[[bytes], Awaitable[None]]
    ) -> ArchiveReceipt:
        """Hand a folder to the sink as an uncompressed tar archive of at most ``max_bytes``.

        Holds files, folders and links with their modes and times, and follows no link. What it cannot hold is left
        out, and the receipt says so. Raises `SandboxError` (``file_not_found``, ``file_refused``).
        """
        ...

    async def write_archive(
        self, sandbox_id: str, path: str, content: AsyncIterator[bytes], *, max_bytes: int
    ) -> ArchiveReceipt:
        """Unpack a tar archive into a folder, made if it is missing, among what is there; files are replaced.

        Nothing changes before the archive is there whole, and nothing leads outside of the folder. Raises
        `SandboxError` (``archive_refused``, ``file_refused``) with the reason.
        """
        ...

    async def renew(self, sandbox_id: str, lifetime_seconds: float) -> None:
        """Let the sandbox end itself so long from now, whatever its deadline was."""
        ...

    async def stop(self, sandbox_id: str) -> int:
        """End every command and all that was left in the background, and run no more; files can still be read.

        Returns how many processes could not be ended.
        """
        ...

    async def list_ids(self) -> list[str]:
        """Return the ids of all sandboxes of this provider on this host, also of other processes' making.

        Raises `SandboxError` (``engine_away``) if that cannot be known now.
        """
        ...

    async def forget(self, sandbox_id: str) -> None:
        """Let go of what this process keeps of a sandbox that is gone; changes nothing outside of it."""
        ...

    async def destroy(self, sandbox_id: str) -> None:
        """End the sandbox and everything in it; one that is gone already is no error."""
        ...

    async def close(self) -> None:
        """Release connections; the sandboxes stay."""
        ...
