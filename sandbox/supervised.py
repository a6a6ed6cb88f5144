"""What providers share: everything that goes through a sandbox's supervisor once there is a way to reach it."""

import abc
import asyncio
import re
from collections.abc import AsyncIterator

from sandbox.channel import Channel
from sandbox.contract import (
    ExecRequest,
    ExecResult,
    ExecState,
    FileStat,
    SandboxError,
    SandboxLostError,
    SandboxSpec,
)
from sandbox.supervisor.frames import CHUNK_BYTES, Header

ATTEMPTS = 3
"""A connection may have ended unnoticed; orders can be repeated, because the supervisor knows their ids."""


class Supervised(abc.ABC):
    """Keeps one connection per sandbox and speaks with the supervisor over it."""

    def __init__(self) -> None:
        self._channels: dict[str, Channel] = {}
        self._opening: dict[str, asyncio.Lock] = {}

    @abc.abstractmethod
    async def _open_channel(self, sandbox_id: str) -> Channel:
        """Connect to the sandbox's supervisor; raises `SandboxLostError` if there is none."""

    async def _channel(self, sandbox_id: str) -> Channel:
        async with self._opening.setdefault(sandbox_id, asyncio.Lock()):
            channel = self._channels.get(sandbox_id)
            if channel is None or channel.ended:
                channel = self._channels[sandbox_id] = await self._open_channel(sandbox_id)
            return channel

    async def _forget(self, sandbox_id: str) -> None:
        if channel := self._channels.pop(sandbox_id, None):
            await channel.close()
        self._opening.pop(sandbox_id, None)

    async def _ask(self, sandbox_id: str, header: Header, payload: bytes = b"") -> tuple[Header, bytes]:
        for _ in range(ATTEMPTS):
            channel = await self._channel(sandbox_id)
            try:
                answer = await channel.request(header, payload)
            except ConnectionError:
                continue
            return _checked(answer)
        raise SandboxLostError(f"sandbox {sandbox_id!r}: its supervisor hangs up on every connection")

    async def execute(self, sandbox_id: str, request: ExecRequest) -> ExecResult:
        """Run the command, or attach to the run of the same exec id, and wait for its end."""
        header = {"op": "exec", **request.model_dump(exclude={"stdin"})}
        answer = await self._ask(sandbox_id, header, (request.stdin or "").encode())
        return _result(request.exec_id, *answer)

    async def exec_state(self, sandbox_id: str, exec_id: str) -> ExecState:
        """Say what became of an exec id; starts nothing."""
        header, payload = await self._ask(sandbox_id, {"op": "state", "exec_id": exec_id})
        finished = header["state"] == "finished"
        return ExecState(state=header["state"], result=_result(exec_id, header, payload) if finished else None)

    async def kill(self, sandbox_id: str, exec_id: str) -> None:
        """End a running command's whole tree; its result is then ``killed``."""
        await self._ask(sandbox_id, {"op": "kill", "exec_id": exec_id})

    async def write_file(
        self, sandbox_id: str, path: str, content: AsyncIterator[bytes], *, mode: int = 0o644
    ) -> int:
        """Write a file whole, make its folders, return its size in bytes."""
        channel = await self._channel(sandbox_id)
        size = 0
        try:
            handle = (await self._file(channel, {"op": "create", "path": _absolute(path), "mode": mode}))[0]["handle"]
            try:
                async for piece in content:
                    for start in range(0, len(piece), CHUNK_BYTES):
                        order = {"op": "write", "handle": handle, "path": path}
                        await self._file(channel, order, piece[start : start + CHUNK_BYTES])
                    size += len(piece)
            except BaseException:
                await self._file(channel, {"op": "close", "handle": handle, "path": path, "commit": False})
                raise
            await self._file(channel, {"op": "close", "handle": handle, "path": path, "commit": True})
        except ConnectionError as error:
            raise SandboxLostError(f"sandbox {sandbox_id!r} was lost while {path!r} was written") from error
        return size

    async def read_file(self, sandbox_id: str, path: str) -> AsyncIterator[bytes]:
        """Yield a regular file's content in chunks."""
        channel = await self._channel(sandbox_id)
        try:
            handle = (await self._file(channel, {"op": "open", "path": _absolute(path)}))[0]["handle"]
            try:
                while data := (await self._file(channel, {"op": "read", "handle": handle, "path": path}))[1]:
                    yield data
            finally:
                await self._file(channel, {"op": "close", "handle": handle, "path": path, "commit": False})
        except ConnectionError as error:
            raise SandboxLostError(f"sandbox {sandbox_id!r} was lost while {path!r} was read") from error

    async def list_files(self, sandbox_id: str, path: str) -> list[FileStat]:
        """Return the entries of a folder, or the one entry of a file."""
        header, _ = await self._ask(sandbox_id, {"op": "list", "path": _absolute(path)})
        return [FileStat.model_validate(entry) for entry in header["entries"]]

    @staticmethod
    async def _file(channel: Channel, header: Header, payload: bytes = b"") -> tuple[Header, bytes]:
        return _checked(await channel.request(header, payload))

    async def close(self) -> None:
        """Release connections; the sandboxes stay."""
        for sandbox_id in list(self._channels):
            await self._forget(sandbox_id)


def _checked(answer: tuple[Header, bytes]) -> tuple[Header, bytes]:
    if code := answer[0].get("error"):
        raise SandboxError(answer[0]["message"], code=code)
    return answer


def _absolute(path: str) -> str:
    return path if path.startswith("/") else f"/workspace/{path}"


def _result(exec_id: str, header: Header, payload: bytes) -> ExecResult:
    out = header["stdout_bytes"]
    texts = {"stdout": payload[:out].decode(errors="replace"), "stderr": payload[out:].decode(errors="replace")}
    return ExecResult.model_validate({**header, **texts, "exec_id": exec_id})


def checked_id(sandbox_id: str) -> str:
    """Return the id if it can be part of a path and a name; raises `SandboxError`."""
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}", sandbox_id) is None:
        raise SandboxError(f"{sandbox_id!r} is not a sandbox id: letters, digits, _ and - only", code="bad_request")
    return sandbox_id


def isolation_faults(facts: Header, spec: SandboxSpec) -> list[str]:
    """Return what a sandbox must have and this one does not; it must not be used then."""
    faults = [f"it reaches the network: {found}" for found in facts["canary"].values() if found]
    if facts["pid"] != 1:
        faults.append("its supervisor is not process 1")
    if facts["capabilities"] or not facts["no_new_privileges"]:
        faults.append("its processes can have privileges")
    if facts["uid"] == 0:
        faults.append("its commands run as root")
    if not facts["read_only_root"]:
        faults.append("its root can be written")
    if facts["workspace_bytes"] > spec.workspace_mb << 20:
        faults.append(f"its /workspace holds {facts['workspace_bytes'] >> 20} MB instead of {spec.workspace_mb}")
    return faults
