"""One process of the agent, spoken to as the SDK does: JSON in lines, and our tools as a server of the SDK's own."""

import json
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness_adapters.claude_agent_sdk.transcript import PREFIX, transcript
from harness_adapters.contract import HistoryItem, TextBlock, UserInput
from harness_adapters.driven.confinement import FILES_AT, PROGRAM_AT, STATE_AT, Confined, Confinement, Program
from harness_adapters.driven.native import GO_ON, Host, Kind, Native
from harness_adapters.driven.process import LineProcess
from harness_adapters.model import anthropic

VERSION = "2.1.329"
"""Of the agent in claude-agent-sdk 0.2.186."""

MEMORY_MB = 768
LONGEST_MS = 2_000_000_000
"""Twenty-three days, near the most that its timers take: how long a tool or an answer may take is decided outside."""

MOST_CHARACTERS = 500_000
"""Of a tool's result: the most that it can be told to take. Of more it writes a file, which the model cannot read."""

_ENVIRONMENT = {
    "API_TIMEOUT_MS": str(LONGEST_MS),
    "MAX_MCP_OUTPUT_TOKENS": str(MOST_CHARACTERS),
    "ANTHROPIC_API_KEY": "none",
    "CLAUDE_CODE_DISABLE_FILE_MENTIONS": "1",
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    "CLAUDE_CODE_ENTRYPOINT": "sdk-py",
    "CLAUDE_CODE_MAX_RETRIES": "0",
    "CLAUDE_CONFIG_DIR": f"{STATE_AT}/config",
    "DISABLE_AUTO_COMPACT": "1",
    "ENABLE_TOOL_SEARCH": "false",
}

Json = dict[str, Any]


def kind(folder: Path, confinement: Confinement, *, processes: int, tool_timeout_ms: int = LONGEST_MS) -> Kind:
    """Return what the pool needs to know; ``folder`` holds ``claude``, which gives a tool up after so long."""

    async def start(process_id: str, host: Host, first: Native, history: Sequence[HistoryItem], /) -> ClaudeProcess:
        program = _program(folder, first, history, tool_timeout_ms)
        return ClaudeProcess(await confinement.start(program, process_id), host, first)

    return Kind(
        name="claude-agent-sdk",
        start=start,
        close=confinement.close,
        sessions_per_process=1,
        processes=processes,
        tool_name=lambda name: name.removeprefix(PREFIX),
        result_characters=MOST_CHARACTERS - 10_000,
        fillers={"No response requested.": "assistant"},
    )


def _program(folder: Path, native: Native, history: Sequence[HistoryItem], tool_timeout_ms: int) -> Program:
    session_id, spec = str(uuid.uuid4()), native.spec
    place = f"config/projects/-workspace/{session_id}.jsonl"
    effort = ["--effort", spec.effort] if spec.effort else []
    return Program(
        name="claude-agent-sdk",
        folder=folder,
        command=[
            f"{PROGRAM_AT}/claude",
            *("--output-format", "stream-json", "--verbose", "--input-format", "stream-json"),
            *(("--system-prompt-file", f"{FILES_AT}/system") if spec.system else ("--system-prompt", "")),
            *("--tools", "", "--model", spec.model, *effort),
            *("--allowedTools", ",".join(PREFIX + tool.name for tool in spec.tools) or "none"),
            *("--permission-mode", "dontAsk", "--strict-mcp-config", "--setting-sources="),
            *("--mcp-config", json.dumps({"mcpServers": {"sandbox": {"type": "sdk", "name": "sandbox"}}})),
            f"--resume={session_id}" if history else f"--session-id={session_id}",
        ],
        memory_mb=MEMORY_MB,
        environment={
            **_ENVIRONMENT,
            "ANTHROPIC_BASE_URL": native.base_url,
            "MCP_TOOL_TIMEOUT": str(tool_timeout_ms),
            "CLAUDE_CODE_MAX_OUTPUT_TOKENS": str(spec.max_tokens),
        },
        files={"system": spec.system or ""},
        state={place: transcript(spec, history, session_id, VERSION)} if history else {},
    )


class ClaudeProcess:
    """A `NativeProcess` of one session; the agent finds its history in the transcript that it is started with."""

    def __init__(self, confined: Confined, host: Host, native: Native):
        self._lines = LineProcess("claude-agent-sdk", confined, self._heard)
        self.confined = confined
        self.died = self._lines.died
        self._host = host
        self._native = native

    async def ready(self) -> None:
        """See `NativeProcess.ready`."""
        await self._ask({"subtype": "initialize", "hooks": None})

    async def open(self, _native: Native, _history: Sequence[HistoryItem]) -> None:
        """See `NativeProcess.open`; the session has been open from the start."""

    async def prompt(self, _native: Native, inputs: Sequence[UserInput]) -> None:
        """See `NativeProcess.prompt`."""
        said = inputs or [UserInput(event_id="", content=[TextBlock(text=GO_ON)])]
        content = [block for each in said for block in anthropic.said(each)]
        self._lines.say(
            {
                "type": "user",
                "message": {"role": "user", "content": content},
                "parent_tool_use_id": None,
                "session_id": "default",
                "client_composed": True,
            }
        )

    async def cancel(self, _native: Native) -> None:
        """See `NativeProcess.cancel`."""
        await self._ask({"subtype": "interrupt"})

    async def forget(self, _native: Native) -> None:
        """See `NativeProcess.forget`; the process ends with its one session."""

    async def close(self) -> None:
        """See `NativeProcess.close`."""
        await self._lines.close()

    async def _ask(self, request: Json) -> None:
        def message(number: int) -> Json:
            return {"type": "control_request", "request_id": str(number), "request": request}

        await self._lines.ask(request["subtype"], message)

    def _heard(self, message: Json) -> None:
        match message.get("type"):
            case "control_response":
                response = message["response"]
                failure = response.get("error") if response.get("subtype") == "error" else None
                self._lines.answered(int(response["request_id"]), response.get("response"), failure=failure)
            case "control_request":
                self._lines.spawn(self._serve(message["request_id"], message["request"]))
            case "result":
                failed = message.get("is_error") or message.get("subtype") != "success"
                self._host.ended(self._native.key, str(message.get("result"))[:300] if failed else None)
            case _:
                pass

    async def _serve(self, request_id: str, request: Json) -> None:
        """Answer what the agent asks of the SDK: messages to our server are answered, anything else is refused."""
        asked = request.get("message") or {}
        if request.get("subtype") != "mcp_message":
            response: Json = {"subtype": "error", "request_id": request_id, "error": "not supported here"}
        else:
            result = {"jsonrpc": "2.0", **({"id": asked["id"]} if "id" in asked else {}), **await self._mcp(asked)}
            response = {"subtype": "success", "request_id": request_id, "response": {"mcp_response": result}}
        self._lines.say({"type": "control_response", "response": response})

    async def _mcp(self, asked: Json) -> Json:
        match asked.get("method"):
            case "initialize":
                return {
                    "result": {
                        "protocolVersion": asked["params"]["protocolVersion"],
                        "capabilities": {"tools": {}},
                        "serverInfo": {"name": "sandbox", "version": "1"},
                    }
                }
            case "tools/list":
                return {"result": {"tools": self._tools()}}
            case "tools/call":
                return {"result": await self._call(asked["params"])}
            case method if "id" in asked:
                return {"error": {"code": -32601, "message": f"{method}: not supported here"}}
            case _:
                return {"result": {}}

    def _tools(self) -> list[Json]:
        most = {"anthropic/maxResultSizeChars": MOST_CHARACTERS}
        return [
            {"name": tool.name, "description": tool.description, "inputSchema": tool.input_schema, "_meta": most}
            for tool in self._native.spec.tools
        ]

    async def _call(self, params: Json) -> Json:
        call_id = (params.get("_meta") or {}).get("claudecode/toolUseId")
        told = await self._host.call(self._native.key, call_id, params["name"], params.get("arguments") or {})
        return {"content": [{"type": "text", "text": told.text}], "isError": told.is_error}
