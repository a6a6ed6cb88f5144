"""What is OpenCode's own: sessions of different agents in one process, its conversation, and its interface."""

import asyncio
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest

from controlplane.embedded.process import free_ports
from harness_adapters.contract import (
    Harness,
    HarnessRestarted,
    HarnessSpec,
    MediaBlock,
    TextBlock,
    ToolDefinition,
    ToolOutcome,
    ToolUse,
    TurnFinished,
    UserInput,
)
from tests.integration.harnesses.recorder import Recorder
from tests.integration.harnesses.talk import Hands, Talk, of, script, text, uses
from tests.integration.harnesses.test_dying import programs
from tests.integration.models.conftest import SCRIPTED, Gateway
from tests.support.harnesses import available

pytestmark = pytest.mark.slow

END = TurnFinished(reason="end_turn")
ASK = """
import ctypes, http.client, os, sys
assert ctypes.CDLL(None).setns(os.open(f"/proc/{sys.argv[1]}/ns/net", os.O_RDONLY), 0) == 0
for path in ("/global/health", "/session", "/file/content?path=/etc/passwd", "/session/ses_x/shell", "/doc"):
    for header in ({}, {"authorization": "Basic b3BlbmNvZGU6"}):
        connection = http.client.HTTPConnection("127.0.0.1", 4096, timeout=5)
        connection.request("GET", path, headers=header)
        print(connection.getresponse().status)
"""
"""Enters a process's network and asks OpenCode there, without a password and with an empty one."""


class OtherTalk(Talk):
    """A session of an agent with tools of its own."""

    tools: tuple[ToolDefinition, ...] = ()

    @property
    def spec(self) -> HarnessSpec:
        """The agent as it stands."""
        return super().spec.model_copy(update={"tools": list(self.tools)})


@pytest.fixture
def harness(all_harnesses: Mapping[str, Harness]) -> Harness:
    """OpenCode."""
    return all_harnesses[available("opencode")]


def tool(name: str, **properties: Any) -> ToolDefinition:
    """Return a tool."""
    schema = {"type": "object", "properties": properties, "required": [], "additionalProperties": False}
    return ToolDefinition(name=name, description=f"The tool {name}.", input_schema=schema)


def schemas(body: dict[str, Any]) -> dict[str, Any]:
    """Return the schemas of the tools that a request offers."""
    found = [each.get("function") or each for each in body["tools"]]
    return {each["name"]: each.get("parameters") or each.get("input_schema") for each in found}


def canonical(value: Any) -> str:
    """Return a value as text, in one way."""
    return json.dumps(value, sort_keys=True)


def asked(body: dict[str, Any]) -> str:
    """Return what a request says, with ids in the order of their appearance."""
    body = {key: value for key, value in body.items() if key != "prompt_cache_key"}
    names: dict[str, str] = {}

    def same(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {name: same(each, name) for name, each in value.items()}
        if isinstance(value, list):
            return [same(each) for each in value]
        is_id = key in {"id", "call_id", "tool_call_id", "tool_use_id"}
        return names.setdefault(value, f"id{len(names)}") if is_id else value

    return json.dumps(same(body), indent=1)


@pytest.mark.parametrize("model", SCRIPTED)
async def test_a_session_that_is_opened_from_its_log_asks_what_it_would_have_asked(
    gateway: Gateway, harness: Harness, recorder: Recorder, model: str
):
    def work(use: ToolUse) -> ToolOutcome | str:
        if use.input["n"] < 2:
            return "fine"
        return ToolOutcome(tool_use_id=use.event_id, content=[TextBlock(text="no such file")], is_error=True)

    talk = Talk(gateway, model)
    steps = {"thinking": "hm", "text": "one", "tools": uses({"n": 1}, {"n": 2})}, {"tools": uses({"n": 1})}
    talk.say(script(*steps, {"thinking": "so", "text": "Grüße"}))
    await talk.turn(harness, Hands(work))
    history = list(talk.history)
    for each in (talk, other := Talk(gateway, model, history=history)):
        each.history.append(UserInput(event_id="next", content=[TextBlock(text=script({"text": "next"}))]))
    recorder.bodies.clear()
    assert text(await talk.turn(harness)) == text(await other.turn(harness)) == "next"
    went_on, opened = map(asked, recorder.bodies)
    assert went_on == opened
    body = json.loads(opened)
    others = canonical([each for each in body.get("messages", body.get("input")) if each.get("role") != "user"])
    assert canonical("Grüße") in others and ('"hm"' in others) == (model != "scripted/openai-demo")
    assert "no such file" in opened


@pytest.mark.parametrize("model", SCRIPTED)
async def test_sessions_of_one_process_have_their_own_tools(
    gateway: Gateway, harness: Harness, recorder: Recorder, model: str
):
    offers = [
        (tool("look", place={"type": "string"}),),
        (tool("look", depth={"type": "integer"}), tool("jump")),
        (),
    ]
    talks = [OtherTalk(gateway, model) for _ in offers]
    for talk, offer in zip(talks, offers, strict=True):
        talk.tools = offer
    before = {process.pid for process in programs("opencode")}
    for _ in range(2):
        recorder.bodies.clear()
        for talk in talks:
            talk.say(script({"text": f"hello {talk.session_id}"}))
        await asyncio.gather(*(talk.turn(harness) for talk in talks))
        offered = [schemas({"tools": [], **body}) for body in recorder.bodies]
        wanted = [{each.name: each.input_schema for each in offer} for offer in offers]
        assert sorted(map(canonical, offered)) == sorted(map(canonical, wanted))
    assert len({process.pid for process in programs("opencode")} - before) <= 1


async def test_a_tool_with_the_name_of_one_of_its_own_is_ours(gateway: Gateway, harness: Harness, recorder: Recorder):
    talk = OtherTalk(gateway, "scripted/x")
    talk.tools = (tool("read", path={"type": "string"}), tool("bash", command={"type": "string"}))
    calls = [{"name": "read", "input": {"path": "/etc/passwd"}}, {"name": "bash", "input": {"command": "id"}}]
    talk.say(script({"tools": calls}, {"text": "{{result.1}}, {{result.2}}"}))
    hands = Hands(lambda use: f"our {use.name}")
    assert text(await talk.turn(harness, hands)) == "our read, our bash"
    assert [use.name for use in hands.called] == ["read", "bash"]
    assert sorted(schemas(recorder.bodies[0])) == ["agent__bash", "agent__read"]


async def test_the_same_call_again_and_again_is_done_again_and_again(
    gateway: Gateway, harness: Harness, recorder: Recorder
):
    talk, hands = Talk(gateway, "scripted/x"), Hands()
    talk.say(script(*({"tools": uses(*[{"n": 1}] * 4)} for _ in range(4)), {"text": "end"}))
    events = await talk.turn(harness, hands)
    assert events[-1] == END and not of(events, HarnessRestarted)
    assert len(hands.called) == 16
    assert not any(outcome.is_error for outcome in hands.outcomes)
    assert "denied" not in json.dumps(recorder.bodies)


@pytest.mark.parametrize("model", SCRIPTED)
async def test_the_agent_s_settings_reach_the_model(
    gateway: Gateway, harness: Harness, recorder: Recorder, model: str
):
    talk = Talk(gateway, model, system="Only this.", more={"max_tokens": 77, "effort": "high"})
    talk.say(script({"text": "hello"}))
    await talk.turn(harness)
    [body] = recorder.bodies
    sent = json.dumps(body)
    limits = {"max_tokens", "max_completion_tokens", "max_output_tokens"}
    efforts = [
        body.get("reasoning_effort"),
        *(body.get(key, {}).get("effort") for key in ("output_config", "reasoning")),
    ]
    assert body["model"] == model
    assert [body[key] for key in limits if key in body] == [77]
    assert [effort for effort in efforts if effort] == ["high"]
    assert "temperature" not in body and body.get("store") is not True
    for words in ("OpenCode", "opencode", "workspace", "/tmp", "Platform"):
        assert words not in sent
    messages = body.get("messages") or body["input"]
    systems = [each["content"] for each in messages if each["role"] in {"system", "developer"}]
    assert [*systems, *(block["text"] for block in body.get("system", []))] == ["Only this."]


@pytest.mark.parametrize("model", SCRIPTED)
async def test_an_image_goes_to_the_model_as_it_came(
    gateway: Gateway, harness: Harness, recorder: Recorder, model: str
):
    talk = Talk(gateway, model)
    source = {"type": "base64", "media_type": "image/png", "data": "bm90IGEgcG5n"}
    linked = MediaBlock(type="image", source={"type": "url", "url": "file:///etc/passwd"})
    said = [TextBlock(text=script({"text": "seen"})), MediaBlock(type="image", source=source), linked]
    for n in range(2):
        talk.history.append(UserInput(event_id=f"image{n}", content=said))
        assert text(await asyncio.wait_for(talk.turn(harness), 30)) == "seen"
    sent = json.dumps(recorder.bodies[-1])
    assert sent.count("bm90IGEgcG5n") == 2
    assert "content is not shown" in sent


async def test_its_interface_answers_nobody_else(gateway: Gateway, harness: Harness):
    if os.geteuid() != 0:
        pytest.skip("only root can enter the network of a process that runs as somebody else")
    talk = Talk(gateway, "scripted/x")
    talk.say(script({"text": "hello"}))
    await talk.turn(harness)
    for process in programs("opencode"):
        assert "PASSWORD" not in " ".join(process.cmdline())
        parents = [" ".join(parent.cmdline()) for parent in process.parents()]
        assert not any("PASSWORD" in line for line in parents)
        done = await asyncio.to_thread(
            subprocess.run, [sys.executable, "-c", ASK, str(process.pid)], capture_output=True, text=True, check=True
        )
        assert set(done.stdout.split()) == {"401"}
        listening_at = {
            each.laddr.ip for each in psutil.Process(process.pid).net_connections() if each.status == "LISTEN"
        }
        assert listening_at <= {"127.0.0.1"}


async def test_a_gateway_that_is_being_restarted_is_waited_for(talk: Talk, harness: Harness, gateway: Gateway):
    [port] = free_ports(1)
    talk.gateway = dataclasses.replace(gateway, url=f"http://127.0.0.1:{port}")
    talk.say(script({"text": "here"}))
    turn = asyncio.create_task(talk.turn(harness))
    done, _ = await asyncio.wait([turn], timeout=3)
    assert not done
    async with _passed_on(port, gateway.url):
        events = await turn
    assert text(events) == "here" and not of(events, HarnessRestarted)


@asynccontextmanager
async def _passed_on(port: int, url: str) -> AsyncGenerator[None]:
    """Pass what comes to a port on to an address."""
    there = urlsplit(url)

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(65536):
            writer.write(chunk)
            await writer.drain()
        writer.close()

    async def passed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        theirs, ours = await asyncio.open_connection(there.hostname, there.port)
        await asyncio.gather(pipe(reader, ours), pipe(theirs, writer), return_exceptions=True)

    async with await asyncio.start_server(passed, "127.0.0.1", port):
        yield
