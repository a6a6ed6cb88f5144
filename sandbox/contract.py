"""What every sandbox provider does; the same suite in `tests/integration/sandbox` runs on each."""

import socket
from collections.abc import AsyncIterator
from typing import Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

ProviderName = Literal["namespace", "docker", "kubernetes"]


class SandboxError(Exception):
    """A provider could not do what was asked.

    ``code`` is stable: ``provision_failed``, ``sandbox_lost``, ``file_not_found``, ``file_refused``, ``bad_request``,
    ``engine_away``, ``egress_away``.
    """

    def __init__(self, message: str, *, code: str):
        super().__init__(message)
        self.code = code


class SandboxLostError(SandboxError):
    """The sandbox is not there any more; what ran in it is unknown."""

    def __init__(self, message: str):
        super().__init__(message, code="sandbox_lost")


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
    """A sandbox that is up. ``isolation`` names each control and whether it took effect on this machine."""

    sandbox_id: str
    provider: ProviderName
    isolation: dict[str, bool | str]
    timings_ms: dict[str, float] = Field(default_factory=dict)


class ExecRequest(_Frozen):
    """A command. ``exec_id`` is the caller's: a repeat attaches to the first run and never runs it again."""

    exec_id: str
    command: str
    """Given to ``bash -lc`` where the sandbox has bash, else to ``sh -c``."""
    cwd: str = "/workspace"
    env: dict[str, str] = Field(default_factory=dict)
    stdin: str | None = None
    timeout_seconds: float = 120
    max_output_bytes: int = 64 * 1024
    """For stdout and stderr each: beyond it the middle is dropped, head and tail are kept."""


ExecStatus = Literal["exited", "running", "timeout", "killed", "oom", "lost", "output_limit"]


class ExecResult(_Frozen):
    """What a command came to; ``exit_code`` is None unless ``status`` is ``exited``."""

    exec_id: str
    status: ExecStatus
    exit_code: int | None = None
    stdout: str = ""
    stderr: str = ""
    dropped_bytes: int = 0
    duration_ms: float = 0
    survivors: int = 0
    """Processes of this command still alive when it ended (started in the background, or beyond killing)."""


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
        """Run the command, or attach to the run of the same exec id, and wait for its end."""
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

    async def list_ids(self) -> list[str]:
        """Return the ids of all sandboxes of this provider on this host, also of other processes' making.

        Raises `SandboxError` (``engine_away``) if that cannot be known now.
        """
        ...

    async def destroy(self, sandbox_id: str) -> None:
        """End the sandbox and everything in it; one that is gone already is no error."""
        ...

    async def close(self) -> None:
        """Release connections; the sandboxes stay."""
        ...
