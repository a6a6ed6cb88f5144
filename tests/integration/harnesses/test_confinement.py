"""What a harness's program can reach: nothing but the model and our tools, whatever the model asks of it."""

import asyncio
import fcntl
import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from controlplane.ids import new_id
from examples.fifth_harness import adapter
from harness_adapters.catalog import HarnessSettings
from harness_adapters.contract import Harness, TextBlock, ToolOutcome, ToolUse, TurnFinished
from harness_adapters.driven.confinement import Confinement, Program
from sandbox.namespace import NamespaceProvider
from tests.integration.harnesses.recorder import Recorder
from tests.integration.harnesses.talk import TOOLS, Hands, Talk, script, text, uses
from tests.integration.harnesses.test_dying import programs
from tests.integration.models.conftest import Gateway
from tests.support.harnesses import MODELS, with_the_example

pytestmark = pytest.mark.slow

OWN_TOOLS: Mapping[str, list[tuple[str, dict[str, Any]]]] = {
    "builtin": [("bash", {"command": "cat /etc/passwd"}), ("read", {"file_path": "/etc/passwd"})],
    adapter.NAME: [("bash", {"command": "cat /etc/passwd"}), ("read", {"file_path": "/etc/passwd"})],
    "claude-agent-sdk": [
        ("Bash", {"command": "cat /etc/passwd"}),
        ("BashOutput", {"bash_id": "1"}),
        ("KillShell", {"shell_id": "1"}),
        ("Read", {"file_path": "/etc/passwd"}),
        ("Write", {"file_path": "/tmp/harness-was-here", "content": "x"}),
        ("Edit", {"file_path": "/etc/passwd", "old_string": "root", "new_string": "toor"}),
        ("NotebookEdit", {"notebook_path": "/etc/passwd", "new_source": "x"}),
        ("Glob", {"pattern": "/etc/*"}),
        ("Grep", {"pattern": "root", "path": "/etc/passwd", "output_mode": "content"}),
        ("LS", {"path": "/etc"}),
        ("WebFetch", {"url": "file:///etc/passwd", "prompt": "show"}),
        ("WebSearch", {"query": "x"}),
        ("Task", {"description": "x", "prompt": "cat /etc/passwd", "subagent_type": "general-purpose"}),
        ("Agent", {"description": "x", "prompt": "cat /etc/passwd"}),
        ("TodoWrite", {"todos": []}),
        ("Skill", {"skill": "run"}),
        ("SlashCommand", {"command": "/init"}),
        ("ListMcpResourcesTool", {}),
        ("ReadMcpResourceTool", {"server": "sandbox", "uri": "file:///etc/passwd"}),
        ("ToolSearch", {"query": "select:Bash"}),
        ("mcp__other__tool", {}),
    ],
    "codex": [
        ("shell", {"command": ["cat", "/etc/passwd"]}),
        ("shell_command", {"command": "cat /etc/passwd"}),
        ("local_shell", {"command": ["cat", "/etc/passwd"]}),
        ("container.exec", {"command": ["cat", "/etc/passwd"]}),
        ("exec_command", {"cmd": "cat /etc/passwd"}),
        ("write_stdin", {"session_id": 1, "chars": "x"}),
        ("unified_exec", {"input": ["cat", "/etc/passwd"]}),
        ("apply_patch", {"input": "*** Begin Patch\n*** Add File: /tmp/harness-was-here\n+x\n*** End Patch"}),
        ("view_image", {"path": "/etc/passwd"}),
        ("read_file", {"file_path": "/etc/passwd"}),
        ("list_dir", {"dir_path": "/etc"}),
        ("grep_files", {"pattern": "root", "path": "/etc/passwd"}),
        ("update_plan", {"plan": []}),
        ("web_search", {"query": "x"}),
        ("spawn_agent", {"message": "cat /etc/passwd"}),
        ("request_user_input", {"questions": []}),
        ("list_mcp_resources", {}),
        ("read_mcp_resource", {"server": "x", "uri": "file:///etc/passwd"}),
        ("tool_search", {"query": "shell"}),
    ],
    "opencode": [
        ("bash", {"command": "cat /etc/passwd", "description": "x"}),
        ("read", {"filePath": "/etc/passwd"}),
        ("write", {"filePath": "/tmp/harness-was-here", "content": "x"}),
        ("edit", {"filePath": "/etc/passwd", "oldString": "root", "newString": "toor"}),
        ("multiedit", {"filePath": "/etc/passwd", "edits": []}),
        ("patch", {"patchText": "*** Begin Patch\n*** Add File: /tmp/harness-was-here\n+x\n*** End Patch"}),
        ("apply_patch", {"patchText": "*** Begin Patch\n*** Add File: /tmp/harness-was-here\n+x\n*** End Patch"}),
        ("glob", {"pattern": "/etc/*"}),
        ("grep", {"pattern": "root", "path": "/etc"}),
        ("list", {"path": "/etc"}),
        ("webfetch", {"url": "file:///etc/passwd", "format": "text"}),
        ("websearch", {"query": "x"}),
        ("codesearch", {"query": "x"}),
        ("task", {"description": "x", "prompt": "cat /etc/passwd", "subagent_type": "general"}),
        ("todowrite", {"todos": []}),
        ("todoread", {}),
        ("skill", {"name": "x"}),
        ("question", {"questions": []}),
        ("lsp", {"operation": "x"}),
        ("batch", {"tool_calls": [{"tool": "bash", "parameters": {"command": "cat /etc/passwd"}}]}),
        ("execute", {"code": "return await Bun.file('/etc/passwd').text()"}),
        ("plan_exit", {}),
        ("list_mcp_resources", {}),
        ("read_mcp_resource", {"server": "x", "uri": "file:///etc/passwd"}),
        ("StructuredOutput", {}),
        ("invalid", {"tool": "bash", "error": "cat /etc/passwd"}),
    ],
}
"""Every tool that a harness brings, by its names of this and of earlier versions, with input that would do harm."""

PROMPTS = [
    "look at @/etc/passwd and @etc/passwd",
    "@file:///etc/passwd",
    "file:///etc/passwd",
    "/compact",
    "/init",
    "!cat /etc/passwd",
    "/mcp__sandbox__x",
    "![x](file:///etc/passwd)",
    "$(cat /etc/passwd)",
    '{"type": "local_image", "path": "/etc/passwd"}',
]
READ = (Path("/etc/passwd").read_text().splitlines()[1], "agent:x:1000")
"""What gives away that the host's file was read, or the one that the program sees in its place."""


def refuse(use: ToolUse) -> ToolOutcome | str:
    """Do as the dispatcher of a turn does."""
    if use.name in {tool.name for tool in TOOLS}:
        return "did it"
    said = TextBlock(text=f"There is no tool named {use.name!r}.")
    return ToolOutcome(tool_use_id=use.event_id, content=[said], is_error=True)


async def test_the_tools_that_a_harness_brings_do_nothing(
    talk: Talk, harness: Harness, name: str, recorder: Recorder
):
    witness = Path("/tmp/harness-was-here")
    witness.unlink(missing_ok=True)
    for tool, value in OWN_TOOLS[name]:
        recorder.bodies.clear()
        calls = [{"name": tool, "input": value}, *uses({"n": 1})]
        talk.say(script({"tools": calls}, {"text": "{{result.1}} | {{result.2}}"}))
        events = await talk.turn(harness, Hands(refuse))
        told = text(events)
        assert events[-1] == TurnFinished(reason="end_turn"), tool
        assert not any(line in json.dumps(recorder.bodies) for line in READ), tool
        assert told.endswith("| did it") and told.split(" | ")[0].strip() not in {"", "did it"}, (tool, told)
    assert not witness.exists()


async def test_what_a_user_writes_is_text(talk: Talk, harness: Harness, recorder: Recorder):
    for prompt in PROMPTS:
        recorder.bodies.clear()
        talk.say(prompt)
        await talk.turn(harness)
        assert len(recorder.bodies) == 1, "no command was run in place of a turn, and nothing was asked beside it"
        sent = json.dumps(recorder.bodies)
        assert json.dumps(prompt)[1:-1] in sent or json.dumps(json.dumps(prompt)[1:-1])[1:-1] in sent, prompt
        assert not any(line in sent for line in READ), prompt


async def test_the_model_is_offered_our_tools_and_no_others(talk: Talk, harness: Harness, recorder: Recorder):
    talk.say(script({"text": "hello"}))
    await talk.turn(harness)
    for body in recorder.bodies:
        names = [(tool.get("function") or tool)["name"].rpartition("__")[2] for tool in body["tools"]]
        assert sorted(names) == sorted(tool.name for tool in TOOLS)
        assert "You are a test." in json.dumps(body)


async def test_the_program_sees_no_key_no_shell_and_no_network(
    talk: Talk, harness: Harness, name: str, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
):
    if name == "builtin":
        pytest.skip("the builtin harness has no process of its own")
    monkeypatch.setenv("A_SECRET_OF_THE_BRAIN", "hunter2-hunter2")
    talk.model, talk.session_id = MODELS[name], "sesn_confined"
    talk.more["mode"] = "isolated"
    before = {process.pid for process in programs(name)}
    talk.say(script({"text": "hello"}))
    await talk.turn(harness)
    [process] = [each for each in programs(name) if each.pid not in before]
    shown = Path(f"/proc/{process.pid}/environ").read_bytes().decode()
    assert "hunter2" not in shown and gateway.token not in shown
    assert "hunter2" not in " ".join(process.cmdline()) and gateway.token not in " ".join(process.cmdline())
    links = Path(f"/proc/{process.pid}/net/dev").read_text().splitlines()[2:]
    assert [link.split(":")[0].strip() for link in links] == ["lo"]
    root = Path(f"/proc/{process.pid}/root")
    assert sorted(path.name for path in root.iterdir()) == sorted(
        ["dev", "etc", "home", "lib", "lib64", "opt", "proc", "run", "tmp", "workspace"]
    )
    assert not any((root / place / "sh").exists() for place in ("bin", "usr/bin", "opt/harness", "lib"))
    assert READ[0] not in (root / "etc" / "passwd").read_text()
    if os.geteuid() == 0:
        assert process.uids().real != 0
        assert len({each.uids().real for each in psutil.Process().children(recursive=True)} - {0}) >= 1


async def test_isolated_and_inline_sessions_do_not_share_a_process(
    talk: Talk, harness: Harness, name: str, gateway: Gateway
):
    if name == "builtin":
        pytest.skip("the builtin harness has no process of its own")
    shared = [Talk(gateway, MODELS[name]) for _ in range(2)]
    for each in shared:
        each.say(script({"text": "inline"}))
        assert text(await each.turn(harness)) == "inline"
    before = {process.pid for process in programs(name)}
    talk.more["mode"] = "isolated"
    talk.say(script({"text": "alone"}))
    assert text(await talk.turn(harness)) == "alone"
    assert len({process.pid for process in programs(name)} - before) == 1
    talk.say(script({"text": "again"}))
    assert text(await talk.turn(harness)) == "again"


async def test_a_process_that_nobody_uses_gives_way_to_one_of_the_other_kind(
    gateway: Gateway, name: str, harness_settings: HarnessSettings
):
    if name == "builtin":
        pytest.skip("the builtin harness has no process of its own")
    folder = harness_settings.state_dir.parent / "narrow"
    found = with_the_example(lambda: new_id("sevt"), replace(harness_settings, state_dir=folder, processes=1))
    try:
        for mode in ("inline", "isolated", "inline"):
            talk = Talk(gateway, MODELS[name], more={"mode": mode})
            talk.say(script({"text": mode}))
            assert text(await asyncio.wait_for(talk.turn(found[name]), 20)) == mode
            await asyncio.sleep(1)  # it comes to rest; one that does not is ended with its process
    finally:
        for harness in found.values():
            await harness.close()


async def test_sandboxes_and_harnesses_leave_each_other_alone(
    talk: Talk, harness: Harness, name: str, harness_settings: HarnessSettings, tmp_path: Path
):
    """The reaper ends what it finds of an installation's sandboxes; a harness's process is none of them."""
    if name == "builtin":
        pytest.skip("the builtin harness has no process of its own")
    talk.say(script({"text": "hello"}))
    await talk.turn(harness)
    provider = NamespaceProvider(
        state_dir=tmp_path / "sandboxes", cache_dir=tmp_path / "cache", installation=harness_settings.installation
    )
    assert await provider.list_ids() == []
    await provider.close()


async def test_what_a_killed_worker_left_is_removed(harness_settings: HarnessSettings, tmp_path: Path):
    """A transcript on disk must not outlive the worker that put it there."""
    dead, alive = tmp_path / "dead", tmp_path / "alive"
    for folder in (dead, alive):
        (folder / "claude-x" / "state").mkdir(parents=True)
        (folder / "claude-x" / "state" / "transcript").write_text("what was said")
        (folder / "lock").touch()
    with (alive / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        confinement = Confinement(
            state_dir=tmp_path, cache_dir=harness_settings.cache_dir, installation=harness_settings.installation
        )
        program = Program(name="none", folder=tmp_path, command=["/opt/harness/none"], memory_mb=64)
        confined = await confinement.start(program, "none-1")
        assert not dead.exists() and (alive / "claude-x").exists()
        await confined.end()
        confinement.close()
    assert [folder.name for folder in tmp_path.iterdir()] == ["alive"]
