"""What providers share: everything that goes through a sandbox's supervisor once there is a way to reach it."""

import abc
import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable

from sandbox.channel import Channel
from sandbox.contract import (
    ArchiveReceipt,
    ExecInfo,
    ExecRequest,
    ExecResult,
    ExecState,
    FileStat,
    SandboxError,
    SandboxLostError,
    SandboxSpec,
    SignalName,
)
from sandbox.supervisor.archives import PIECE_BYTES
from sandbox.supervisor.frames import CHUNK_BYTES, Header

ATTEMPTS = 3
"""A connection may have ended unnoticed; orders can be repeated, because the supervisor knows their ids."""


ORDER_SECONDS = 120.0
"""Process 1 answers within milliseconds, and within seconds where it ends what runs. What carries its answers may
have been stopped by a command of the same user; another connection is made then."""

LEAST_PAGE_BYTES = 512
"""A smaller piece of output would hardly hold the mark of a gap beside it."""


class _SilentError(ConnectionError):
    """A connection was ended because nothing came on it."""


class Supervised(abc.ABC):
    """Keeps one connection per sandbox and speaks with the supervisor over it."""

    def __init__(self, *, order_seconds: float = ORDER_SECONDS) -> None:
        self._order_seconds = order_seconds
        self._channels: dict[str, Channel] = {}
        self._opening: dict[str, asyncio.Lock] = {}

    @abc.abstractmethod
    async def _open_channel(self, sandbox_id: str) -> Channel:
        """Connect to the sandbox's supervisor; raises `SandboxLostError` if there is none."""

    async def _channel(self, sandbox_id: str) -> Channel:
        async with self._opening.setdefault(sandbox_id, asyncio.Lock()):
            channel = self._channels.get(sandbox_id)
            if channel is not None and not channel.ended:
                return channel
            try:
                channel = self._channels[sandbox_id] = await self._open_channel(sandbox_id)
            except SandboxLostError:
                await self.forget(sandbox_id)
                raise
            return channel

    async def forget(self, sandbox_id: str) -> None:
        """Let go of what is kept here of a sandbox that is gone."""
        if channel := self._channels.pop(sandbox_id, None):
            await channel.close()
        self._opening.pop(sandbox_id, None)

    async def _ask(self, sandbox_id: str, header: Header, payload: bytes = b"") -> tuple[Header, bytes]:
        broken = silent = 0
        while broken < ATTEMPTS and silent < ATTEMPTS:
            channel = await self._channel(sandbox_id)
            began = time.monotonic()
            try:
                return await self._answered(channel, header, payload)
            except _SilentError:
                silent += 1
            except ConnectionError:
                # One that held for long was ended by what carries it: a long command may outlive several.
                broken = 1 if time.monotonic() - began > self._order_seconds else broken + 1
        if silent == ATTEMPTS:
            raise SandboxError(
                f"sandbox {sandbox_id!r}: its supervisor does not answer; it may be frozen, or out of memory",
                code="engine_away",
            )
        raise await self._hung_up(sandbox_id)

    async def _hung_up(self, sandbox_id: str) -> SandboxError:
        """Return what it means that every connection ended before there was an answer."""
        return SandboxLostError(f"sandbox {sandbox_id!r}: its supervisor hangs up on every connection")

    async def _broken(self, sandbox_id: str, meanwhile: str) -> SandboxError:
        """Return what a connection's end in the middle of something means: the sandbox's end, or the bridge's alone.

        A bridge ends with the engine or server that carries it, and in a pod any command can end it.
        """
        try:
            await self._channel(sandbox_id)
        except SandboxLostError:
            return SandboxLostError(f"sandbox {sandbox_id!r} was lost while {meanwhile}")
        return SandboxError(
            f"the connection to sandbox {sandbox_id!r} broke while {meanwhile}; try again", code="engine_away"
        )

    async def execute(self, sandbox_id: str, request: ExecRequest) -> ExecResult:
        """Run the command, or attach to the run of the same exec id, and wait for its end or until it is to yield."""
        header = {"op": "exec", **request.model_dump(exclude={"stdin"})}
        answer = await self._ask(sandbox_id, header, (request.stdin or "").encode())
        return _result(request.exec_id, *answer)

    async def exec_state(self, sandbox_id: str, exec_id: str) -> ExecState:
        """Say what became of an exec id; starts nothing."""
        header, payload = await self._ask(sandbox_id, {"op": "state", "exec_id": exec_id})
        if header["status"] in {"running", "never_started"}:
            return ExecState(state=header["status"])
        return ExecState(state="finished", result=_result(exec_id, header, payload))

    async def read_output(
        self,
        sandbox_id: str,
        exec_id: str,
        *,
        cursor: str = "",
        wait_seconds: float = 0,
        max_output_bytes: int = 65536,
    ) -> ExecResult:
        """Return what a command has printed since the cursor, waiting for more or for its end."""
        if max_output_bytes < LEAST_PAGE_BYTES:
            raise SandboxError(f"max_output_bytes must be {LEAST_PAGE_BYTES} or more", code="bad_request")
        order = {"op": "output", "exec_id": exec_id, "cursor": _offsets(cursor), "max_output_bytes": max_output_bytes}
        return _result(exec_id, *await self._ask(sandbox_id, {**order, "wait_seconds": wait_seconds}))

    async def write_stdin(
        self, sandbox_id: str, exec_id: str, data: bytes, *, write_id: str, close: bool = False
    ) -> None:
        """Give a running command more input, all of it or none, and once for each ``write_id``."""
        order = {"op": "stdin", "exec_id": exec_id, "write_id": write_id, "close": close}
        await self._ask(sandbox_id, order, data)

    async def signal(self, sandbox_id: str, exec_id: str, name: SignalName, *, signal_id: str) -> None:
        """Signal a running command's process group, once for each ``signal_id``; ``KILL`` ends its tree."""
        order = {"op": "signal", "exec_id": exec_id, "name": name, "signal_id": signal_id}
        await self._ask(sandbox_id, order)
        if name == "KILL":
            await self.kill(sandbox_id, exec_id)

    async def list_execs(self, sandbox_id: str) -> list[ExecInfo]:
        """Return the commands that run and the latest that have ended, running and newest first."""
        header, _ = await self._ask(sandbox_id, {"op": "execs"})
        return [ExecInfo.model_validate(entry) for entry in header["execs"]]

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
            raise await self._broken(sandbox_id, f"{path!r} was written") from error
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
            raise await self._broken(sandbox_id, f"{path!r} was read") from error

    async def list_files(self, sandbox_id: str, path: str) -> list[FileStat]:
        """Return the entries of a folder, or the one entry of a file."""
        header, _ = await self._ask(sandbox_id, {"op": "list", "path": _absolute(path)})
        return [FileStat.model_validate(entry) for entry in header["entries"]]

    async def read_archive(
        self, sandbox_id: str, path: str, *, max_bytes: int, sink: Callable[[bytes], Awaitable[None]]
    ) -> ArchiveReceipt:
        """Hand a folder to the sink as a tar archive; what it cannot hold is left out, and said."""
        channel = await self._channel(sandbox_id)
        try:
            order = {"op": "pack", "path": _absolute(path), "max_bytes": max_bytes}
            handle = (await self._file(channel, order))[0]["handle"]
            try:
                while True:
                    header, data = await self._file(channel, {"op": "pack_more", "handle": handle})
                    if data:
                        await sink(data)
                    if header.pop("done"):
                        return ArchiveReceipt.model_validate(header)
            finally:
                await self._file(channel, {"op": "archive_close", "handle": handle})
        except ConnectionError as error:
            raise await self._broken(sandbox_id, f"{path!r} was read") from error

    async def write_archive(
        self, sandbox_id: str, path: str, content: AsyncIterator[bytes], *, max_bytes: int
    ) -> ArchiveReceipt:
        """Unpack a tar archive into a folder, once it is there whole."""
        channel = await self._channel(sandbox_id)
        try:
            order = {"op": "unpack", "path": _absolute(path), "max_bytes": max_bytes}
            handle = (await self._file(channel, order))[0]["handle"]
            try:
                async for piece in content:
                    for start in range(0, len(piece), PIECE_BYTES):
                        order = {"op": "unpack_more", "handle": handle}
                        await self._file(channel, order, piece[start : start + PIECE_BYTES])
                header, _ = await self._file(channel, {"op": "unpack_end", "handle": handle})
                return ArchiveReceipt.model_validate(header)
            finally:
                await self._file(channel, {"op": "archive_close", "handle": handle})
        except ConnectionError as error:
            raise await self._broken(sandbox_id, f"{path!r} was written") from error

    async def stat_file(self, sandbox_id: str, path: str) -> FileStat:
        """Return what a path is itself, also if it is a link."""
        header, _ = await self._ask(sandbox_id, {"op": "stat", "path": _absolute(path)})
        return FileStat.model_validate(header["entries"][0])

    async def renew(self, sandbox_id: str, lifetime_seconds: float) -> None:
        """Let the sandbox end itself so long from now, whatever its deadline was."""
        await self._ask(sandbox_id, {"op": "renew", "lifetime_seconds": lifetime_seconds})

    async def stop(self, sandbox_id: str) -> int:
        """End all that runs and run no more; return how many processes could not be ended."""
        header, _ = await self._ask(sandbox_id, {"op": "stop"})
        return header["survivors"]

    async def _answered(self, channel: Channel, header: Header, payload: bytes) -> tuple[Header, bytes]:
        """Return the answer to an order; raises `ConnectionError` if none comes, and ends the connection then."""
        try:
            if header["op"] == "exec":
                answer = await self._looked_after(channel, header, payload)
            else:
                async with asyncio.timeout(self._order_seconds + header.get("wait_seconds", 0)):
                    answer = await channel.request(header, payload)
        except TimeoutError as error:
            await channel.close()
            raise _SilentError("the sandbox's supervisor does not answer") from error
        return _checked(answer)

    async def _looked_after(self, channel: Channel, header: Header, payload: bytes) -> tuple[Header, bytes]:
        """Return the answer however late: a command may be silent, what carries its answer must not be."""
        asked = asyncio.create_task(channel.request(header, payload))
        try:
            while not (await asyncio.wait([asked], timeout=self._order_seconds))[0]:
                async with asyncio.timeout(self._order_seconds):
                    await channel.request({"op": "execs"})
            return asked.result()
        finally:
            if not asked.cancel() and not asked.cancelled():
                asked.exception()  # so that nobody misses it

    async def _file(self, channel: Channel, header: Header, payload: bytes = b"") -> tuple[Header, bytes]:
        return await self._answered(channel, header, payload)

    async def close(self) -> None:
        """Release connections; the sandboxes stay."""
        for sandbox_id in list(self._channels):
            await self.forget(sandbox_id)


def _checked(answer: tuple[Header, bytes]) -> tuple[Header, bytes]:
    if code := answer[0].get("error"):
        raise SandboxError(answer[0]["message"], code=code)
    return answer


def _absolute(path: str) -> str:
    return path if path.startswith("/") else f"/workspace/{path}"


def _offsets(cursor: str) -> list[int]:
    if re.fullmatch(r"(\d{1,18}\.\d{1,18})?", cursor, re.ASCII) is None:
        raise SandboxError(f"{cursor!r} is not a cursor that a command's result had", code="bad_request")
    return [int(offset) for offset in (cursor or "0.0").split(".")]


def _result(exec_id: str, header: Header, payload: bytes) -> ExecResult:
    texts: list[str] = []
    for before, dropped, after in header["pages"]:
        kept, payload = payload[: before + after], payload[before + after :]
        mark = b"\n[... %d bytes dropped ...]\n" % dropped if dropped else b""
        texts.append((kept[:before] + mark + kept[before:]).decode(errors="replace"))
    cursor = ".".join(map(str, header["cursor"]))
    return ExecResult.model_validate(
        {**header, "exec_id": exec_id, "cursor": cursor, "stdout": texts[0], "stderr": texts[1]}
    )


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
