"""One ``codex app-server``: JSON-RPC on its standard streams."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness_adapters.codex.configuration import CONFIG_TOML, thread
from harness_adapters.contract import HistoryItem, MediaBlock, TextBlock, UserInput
from harness_adapters.driven.confinement import FILES_AT, PROGRAM_AT, Confined, Confinement, Program
from harness_adapters.driven.native import GO_ON, Host, Kind, Native
from harness_adapters.driven.process import LineProcess
from harness_adapters.model.responses import items
from harness_adapters.model.rounds import described

SESSIONS = 64
"""In one process: measured at 250 MB with so many."""

MEMORY_MB = 768
_NOT_OURS = {"code": -32601, "message": "not supported here"}

Json = dict[str, Any]


def kind(folder: Path, confinement: Confinement, *, processes: int) -> Kind:
    """Return what the pool needs to know; ``folder`` holds ``bin/codex``."""

    async def start(process_id: str, host: Host, _first: Native, _history: Sequence[HistoryItem], /) -> CodexProcess:
        program = Program(
            name="codex",
            folder=folder,
            command=[f"{PROGRAM_AT}/bin/codex", "app-server"],
            memory_mb=MEMORY_MB,
            environment={"CODEX_HOME": "/home/agent"},
            files={"config.toml": CONFIG_TOML},
            links={"/home/agent/config.toml": f"{FILES_AT}/config.toml"},
        )
        return CodexProcess(await confinement.start(program, process_id), host)

    return Kind(
        name="codex", start=start, close=confinement.close, sessions_per_process=SESSIONS, processes=processes
    )


@dataclass
class _Thread:
    id: str
    turn_id: str | None = None


class CodexProcess:
    """A `NativeProcess`; threads are ephemeral: they leave nothing on disk, and are opened from the log."""

    def __init__(self, confined: Confined, host: Host):
        self._lines = LineProcess("codex", confined, self._heard)
        self.confined = confined
        self.died = self._lines.died
        self._host = host
        self._threads: dict[str, _Thread] = {}
        self._keys: dict[str, str] = {}

    async def ready(self) -> None:
        """See `NativeProcess.ready`."""
        client = {"name": "bulkhead", "title": None, "version": "0"}
        await self._ask("initialize", {"clientInfo": client, "capabilities": {"experimentalApi": True}})
        self._lines.say({"method": "initialized"})

    async def open(self, native: Native, history: Sequence[HistoryItem]) -> None:
        """See `NativeProcess.open`."""
        opened = await self._ask("thread/start", thread(native))
        thread_id = opened["thread"]["id"]
        self._threads[native.key], self._keys[thread_id] = _Thread(thread_id), native.key
        if history:
            await self._ask("thread/inject_items", {"threadId": thread_id, "items": items(history)})

    async def prompt(self, native: Native, inputs: Sequence[UserInput]) -> None:
        """See `NativeProcess.prompt`."""
        held = self._threads[native.key]
        held.turn_id = None
        said = [part for each in inputs for part in _parts(each)] or [_text(GO_ON)]
        started = await self._ask("turn/start", {"threadId": held.id, "input": said})
        held.turn_id = started["turn"]["id"]

    async def cancel(self, native: Native) -> None:
        """See `NativeProcess.cancel`."""
        held = self._threads.get(native.key)
        if held is not None and held.turn_id is not None:
            await self._ask("turn/interrupt", {"threadId": held.id, "turnId": held.turn_id})

    async def forget(self, native: Native) -> None:
        """See `NativeProcess.forget`."""
        held = self._threads.pop(native.key, None)
        if held is not None:
            self._keys.pop(held.id, None)
            await self._ask("thread/unsubscribe", {"threadId": held.id})

    async def close(self) -> None:
        """See `NativeProcess.close`."""
        await self._lines.close()

    async def _ask(self, method: str, params: Json) -> Json:
        return await self._lines.ask(method, lambda number: {"id": number, "method": method, "params": params})

    def _heard(self, message: Json) -> None:
        method, number = message.get("method"), message.get("id")
        if method is None:
            failure = message["error"].get("message") if "error" in message else None
            self._lines.answered(number, message.get("result"), failure=failure)
        elif number is not None:
            self._lines.spawn(self._serve(number, method, message.get("params") or {}))
        elif method == "turn/completed":
            params = message["params"]
            error = params["turn"].get("error") or {}
            if (key := self._keys.get(params["threadId"])) is not None:
                self._host.ended(key, error.get("message") if params["turn"].get("status") == "failed" else None)

    async def _serve(self, number: Any, method: str, params: Json) -> None:
        """Answer what Codex asks of its client: tool calls are done, anything else is refused."""
        if method != "item/tool/call":
            self._lines.say({"id": number, "error": _NOT_OURS})
            return
        key = self._keys.get(params["threadId"], "")
        told = await self._host.call(key, params["callId"], params["tool"], params["arguments"] or {})
        content = [{"type": "inputText", "text": told.text}]
        self._lines.say({"id": number, "result": {"contentItems": content, "success": not told.is_error}})


def _parts(said: UserInput) -> list[Json]:
    if said.role == "system":
        texts = "\n".join(block.text for block in said.content if isinstance(block, TextBlock))
        return [_text(f"<system-note>\n{texts}\n</system-note>")]
    return [_part(block) for block in said.content] or [_text("(empty)")]


def _part(block: TextBlock | MediaBlock) -> Json:
    if isinstance(block, TextBlock):
        return _text(block.text)
    source = block.source
    if block.type == "image" and source.get("type") == "base64":
        return {"type": "image", "url": f"data:{source.get('media_type')};base64,{source.get('data')}"}
    if source.get("type") == "text":
        return _text(f"[document {block.title or 'untitled'!r}]\n{source.get('data')}")
    return _text(described(block))


def _text(text: str) -> Json:
    return {"type": "text", "text": text, "text_elements": []}
