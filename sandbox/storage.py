"""The folders that a sandbox may write to. They lie in memory, and count on top of what commands use."""

from sandbox.contract import SandboxSpec

SCRATCH_MB = 256
"""Size of /tmp, /dev/shm and the home folder each."""

OUTFIT = "/run/bulkhead"
"""Where the files lie that let programs use the way out (`outfit.py`)."""
_OUTFIT_MB = 4

MEMORY = "/mnt/memory"
"""Where a session's memory stores are shown."""
_MEMORY_MB = 64


def folders(spec: SandboxSpec) -> dict[str, int]:
    """Return mount point → size in MB of the writable folders but /dev/shm, which providers make in their own way."""
    return {
        "/workspace": spec.workspace_mb,
        "/mnt/session": spec.workspace_mb,
        "/tmp": SCRATCH_MB,  # noqa: S108
        "/home/agent": SCRATCH_MB,
        OUTFIT: _OUTFIT_MB,
        MEMORY: _MEMORY_MB,
    }


def megabytes(spec: SandboxSpec) -> int:
    """Return what all of it may hold together."""
    return sum(folders(spec).values()) + SCRATCH_MB
