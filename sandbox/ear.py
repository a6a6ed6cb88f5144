"""The worker's side of a sandbox's ear: asking process 1 for the socket, and getting at process 1 in a container."""

import ctypes
import os
import socket
import threading
from pathlib import Path

from sandbox.contract import SandboxError
from sandbox.supervisor.frames import CHUNK_BYTES, pack, unpack
from sandbox.supervisor.main import ABSTRACT_SOCKET

WAIT_SECONDS = 10.0
"""Process 1 answers within a millisecond unless the machine has no time for it."""
NO_ENTRY_STEP = (
    "run the sandbox worker as root on the engine's own host, use namespace sandboxes, or let the environment"
    " reach no host (networking limited, without allowed hosts)"
)
_CLONE_NEWNET = 0x40000000
_CAP_SYS_ADMIN = 21


def ask(control: socket.socket) -> socket.socket:
    """Return the listening socket that process 1 hands over; raises `OSError`, or `SandboxError` if it refuses."""
    control.settimeout(WAIT_SECONDS)
    control.sendall(pack({"op": "ear", "id": 0}))
    answer, received = bytearray(), list[int]()
    try:
        while (frame := unpack(answer)) is None:
            data, descriptors, _, _ = socket.recv_fds(control, CHUNK_BYTES, 1)
            received += descriptors
            if not data:
                raise ConnectionResetError("process 1 hung up")
            answer += data
        if (code := frame[0].get("error")) or not received:
            raise SandboxError(frame[0].get("message", "process 1 sent no socket"), code=code or "provision_failed")
        return socket.socket(fileno=received.pop())
    finally:
        for descriptor in received:
            os.close(descriptor)


def entry_obstacle() -> str | None:
    """Say why this process cannot enter a container's network namespace; None if it can."""
    status = Path("/proc/self/status").read_text()
    effective = next(line.split()[1] for line in status.splitlines() if line.startswith("CapEff"))
    if not int(effective, 16) >> _CAP_SYS_ADMIN & 1:
        return "the worker may not enter a container's network namespace (CAP_SYS_ADMIN)"
    address = os.environ.get("DOCKER_HOST", "")
    if address and not address.startswith("unix://"):
        return f"the Docker engine at {address} is not on this host"
    return None


def visit(pid: int, namespace: int) -> socket.socket:
    """Return a connection to process 1 of a container, made inside its network namespace.

    ``namespace`` is the namespace's number as process 1 tells it, so that no other process is taken for it. Raises
    `OSError`, or `SandboxError` if the process is not on this host.
    """
    descriptor = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    try:
        if os.fstat(descriptor).st_ino != namespace:
            raise SandboxError(
                "the Docker engine's processes are not those of this host (an engine in a virtual machine?)",
                code="provision_failed",
            )
        return _connected(descriptor)
    finally:
        os.close(descriptor)


def _connected(namespace: int) -> socket.socket:
    """Enter the namespace with a thread that ends there: none that does other work is ever in it."""
    made: list[socket.socket | OSError] = []

    def enter() -> None:
        try:
            made.append(_connect(namespace))
        except OSError as error:
            made.append(error)

    thread = threading.Thread(target=enter, name="container-visitor")
    thread.start()
    thread.join()
    if isinstance(made[0], OSError):
        raise made[0]
    return made[0]


def _connect(namespace: int) -> socket.socket:
    if ctypes.CDLL(None, use_errno=True).setns(namespace, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"setns: {os.strerror(number)}")
    control = socket.socket(socket.AF_UNIX)
    try:
        control.settimeout(WAIT_SECONDS)
        control.connect(ABSTRACT_SOCKET)
    except OSError:
        control.close()
        raise
    return control
