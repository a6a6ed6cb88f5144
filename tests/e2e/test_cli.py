"""The command line against the running control plane: every noun, as text and as JSON, and how it fails."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.cli import Cli
from tests.support.stack import Stack


@pytest.fixture
def cli(stack: Stack, tmp_path: Path) -> Cli:
    return Cli(stack, tmp_path)


def script(*steps: dict[str, Any]) -> str:
    return f"```script\n{json.dumps(steps)}\n```"


def execute(command: str) -> dict[str, Any]:
    return {"tools": [{"name": "sandbox_execute", "input": {"command": command}}]}


def session_of(cli: Cli, *options: str) -> str:
    agent = cli.json("agents", "create", "--name", "a", "--model", "scripted/demo")["id"]
    environment = cli.json("environments", "create", "--name", "e", "--provider", "namespace")["id"]
    return cli.json("sessions", "create", "--agent", agent, "--environment", environment, *options)["id"]


def test_agents(cli: Cli):
    (cli.folder / "prompt.md").write_text("Be brief.")
    made = cli.json(
        "agents", "create", "--name", "clerk", "--model", "scripted/demo", "--system-file", "prompt.md", "--toolset"
    )
    assert made["system"] == "Be brief."
    assert made["tools"][0]["type"] == "agent_toolset_20260401"
    assert made["id"] in cli.text("agents", "list")
    assert "Be brief." in cli.text("agents", "show", made["id"])
    assert cli.json("agents", "archive", made["id"])["archived_at"] is not None
    assert made["id"] not in [agent["id"] for agent in cli.json("agents", "list")]
    assert made["id"] in [agent["id"] for agent in cli.json("agents", "list", "--archived")]


def test_a_listing_goes_past_the_first_page(cli: Cli):
    (cli.folder / "agent.json").write_text(json.dumps({"name": "many", "model": "scripted/demo"}))
    for _ in range(3):
        cli.json("agents", "create", "--from", "agent.json")
    assert len(cli.json("agents", "list", "--limit", "2")) == 2


def test_environments(cli: Cli):
    made = cli.json("environments", "create", "--name", "small", "--cpus", "0.5", "--memory-mb", "256")
    assert made["config"]["cpus"] == 0.5
    assert made["config"]["memory_mb"] == 256
    assert "small" in cli.text("environments", "list")
    assert "0.5" in cli.text("environments", "show", made["id"])
    assert cli.json("environments", "archive", made["id"])["archived_at"] is not None


def test_files_come_back_as_they_went(cli: Cli):
    content = bytes(range(256)) * 1000
    (cli.folder / "data.bin").write_bytes(content)
    made = cli.json("files", "upload", "data.bin")
    assert made["size_bytes"] == len(content)
    assert made["id"] in cli.text("files", "list")
    assert cli.json("files", "download", made["id"], "-o", "copy.bin")["size_bytes"] == len(content)
    assert (cli.folder / "copy.bin").read_bytes() == content
    assert cli.json("files", "delete", made["id"])["id"] == made["id"]
    assert "[file_not_found" in cli.refused("files", "download", made["id"])
    assert not list(cli.folder.glob(".*.part"))


def test_keys_open_and_are_revoked(cli: Cli):
    made = cli.json("keys", "create", "for the test")
    own = {"BULKHEAD_API_KEY": made["key"]}
    assert cli.run("agents", "list", environment=own).returncode == 0
    assert made["key"] not in cli.text("keys", "list")
    assert cli.json("keys", "revoke", made["id"])["revoked_at"] is not None
    time.sleep(1.1)  # the API believes a key for a second
    assert "does not hold [invalid_api_key, x-api-key]" in cli.refused("agents", "list", environment=own)


def test_a_session_from_its_first_message_to_the_archive(cli: Cli):
    (cli.folder / "words.txt").write_text("one\ntwo\n")
    session = session_of(cli, "--title", "a tale", "--file", "words.txt:/workspace/in/words.txt")
    message = script(execute("wc -l < in/words.txt"), {"text": "It has {{result}} lines."})
    shown = cli.text("sessions", "send", session, message, "--follow")
    assert "sandbox_execute: wc -l < in/words.txt" in shown
    assert "It has 2" in shown
    assert "a tale" in cli.text("sessions", "list")
    assert cli.json("sessions", "show", session)["status"] == "idle"
    assert "It has 2" in cli.text("sessions", "events", session)
    events = [json.loads(line) for line in cli.text("sessions", "events", session, "--json").splitlines()]
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    later = cli.text("sessions", "events", session, "--after", str(len(events) - 1), "--json")
    assert [json.loads(line)["seq"] for line in later.splitlines()] == [len(events)]
    assert "[nothing_to_resume" in cli.refused("sessions", "resume", session)
    assert cli.json("sessions", "archive", session)["archived_at"] is not None


def test_what_is_followed_is_the_turn_that_takes_the_message(cli: Cli):
    session = session_of(cli)
    cli.text("sessions", "send", session, script(execute("sleep 3"), {"text": "the first is done"}))
    shown = cli.text(
        "sessions", "send", session, script(execute("echo $((6 * 7))"), {"text": "got {{result}}"}), "--follow"
    )
    assert "the first is done" in shown
    assert "got 42" in shown


@pytest.mark.slow
def test_what_waits_is_listed_and_decided(cli: Cli):
    asking = {"type": "agent_toolset_20260401", "default_config": {"permission_policy": {"type": "always_ask"}}}
    (cli.folder / "agent.json").write_text(json.dumps({"name": "careful", "tools": [asking]}))
    agent = cli.json("agents", "create", "--from", "agent.json", "--model", "scripted/demo")["id"]
    environment = cli.json("environments", "create", "--name", "e", "--provider", "namespace")["id"]
    session = cli.json("sessions", "create", "--agent", agent, "--environment", environment)["id"]
    first, second = (execute(f"echo {word}") for word in ("one", "two"))
    shown = cli.text("sessions", "send", session, script(first, second, {"text": "both"}), "--follow")
    (waits,) = [each for each in cli.json("approvals", "list") if each["session_id"] == session]
    assert f"bulkhead approvals allow {waits['id']}" in shown
    assert waits["input"] == {"command": "echo one"}
    assert cli.json("approvals", "allow", waits["id"])["result"] == "allow"
    assert "[tool_use_decided, tool_use_id]" in cli.refused("approvals", "deny", waits["id"])
    until = time.monotonic() + 30
    while not (found := [each for each in cli.json("approvals", "list") if each["session_id"] == session]):
        assert time.monotonic() < until
    assert cli.json("approvals", "deny", found[0]["id"], "-m", "enough")["deny_message"] == "enough"
    states = [(each["state"], each["decision"]) for each in cli.json("sessions", "tool-calls", session)]
    assert states[0] == ("confirmed", "allow")
    assert states[1][1] == "deny"
    asked = cli.json("sessions", "requests", session)
    assert {(each["model"], each["state"], each["cost_usd"]) for each in asked} == {
        (asked[0]["model"], "metered", "0")
    }
    assert "OUTPUT_TOKENS" in cli.text("sessions", "requests", session)


@pytest.mark.slow
def test_agents_and_environments_go_by_name_where_it_is_the_only_one(cli: Cli):
    cli.json("agents", "create", "--name", "unique-agent", "--model", "scripted/demo")
    for _ in range(2):
        cli.json("environments", "create", "--name", "twice")
    refused = cli.refused("sessions", "create", "--agent", "unique-agent", "--environment", "twice")
    assert "2 environments are named 'twice' [environment_ambiguous]" in refused
    assert "[agent_not_found]" in cli.refused("chat", "nobody")
    assert cli.json("agents", "show", "unique-agent")["name"] == "unique-agent"
    assert cli.json("agents", "archive", "unique-agent")["archived_at"] is not None
    assert "[environment_ambiguous]" in cli.refused("environments", "show", "twice")
    cli.json("environments", "create", "--name", "once")
    assert cli.json("environments", "archive", "once")["archived_at"] is not None


def test_a_conversation_on_standard_input(cli: Cli):
    session = session_of(cli)
    typed = f"{script({'text': 'Good day.'}).replace(chr(10), ' ')}\n"
    said = cli.text("chat", "--session", session, stdin=typed)
    assert "scripted" in said.lower() or "Good day." in said
    assert f"bulkhead chat --session {session}" in said


class Terminal:
    """A conversation on a terminal of its own."""

    def __init__(self, cli: Cli, session: str):
        self.terminal, theirs = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "controlplane.cli", "chat", "--session", session],
            cwd=cli.folder,
            env=cli.environment,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.terminal)

    def until(self, pattern: str) -> str:
        seen = ""
        while not re.search(pattern, seen):
            seen = re.sub(r"\x1b\[[0-9;]*m", "", seen + os.read(self.terminal, 4096).decode(errors="replace"))
        return seen

    def type(self, keys: bytes) -> None:
        os.write(self.terminal, keys)


def test_ctrl_c_interrupts_the_turn_and_leaves_the_session(cli: Cli):
    session = session_of(cli, "--message", script(execute("sleep 60"), {"text": "done"}))
    with Terminal(cli, session) as terminal:
        terminal.until("sandbox_execute: sleep 60")
        terminal.process.send_signal(signal.SIGINT)
        seen = terminal.until(r"interrupting(.|\s)*> $")
        assert "\ndone" not in seen
        terminal.type(b"\x04")
        assert terminal.process.wait(30) == 0
    assert cli.json("sessions", "show", session)["status"] == "idle"


def test_a_second_ctrl_c_leaves_while_the_turn_goes_on(cli: Cli):
    session = session_of(cli, "--message", script(execute("sleep 60"), {"text": "done"}))
    with Terminal(cli, session) as terminal:
        terminal.until("sandbox_execute: sleep 60")
        terminal.process.send_signal(signal.SIGINT)
        terminal.until("interrupting")
        terminal.process.send_signal(signal.SIGINT)
        terminal.until(f"bulkhead chat --session {session}|> $")


def test_failures_are_one_paragraph_with_the_next_step(cli: Cli):
    unknown = cli.refused("sessions", "show", "sesn_unknown")
    assert unknown.startswith("Error: ")
    assert "[session_not_found" in unknown
    bad = cli.refused("agents", "create", "--name", "", "--model", "m")
    assert "name" in bad
    away = cli.refused("agents", "list", "--url", "http://127.0.0.1:9")
    assert "[server_unreachable]. Next: start it with `bulkhead up`" in away
    keyless = cli.refused("agents", "list", "--data-dir", str(cli.folder))
    assert "[missing_api_key]" in keyless
    assert "[unreadable_file]" in cli.refused("files", "upload", "not-there.txt")
    (cli.folder / "broken.json").write_text("{")
    assert "[bad_file, --from]" in cli.refused("agents", "create", "--from", "broken.json")
    assert "[missing_setting, BULKHEAD_DATABASE_URL]" in cli.refused("brain")
    nowhere = {"BULKHEAD_DATABASE_URL": "postgresql://x@/y?host=/nowhere", "BULKHEAD_DATA_DIR": str(cli.folder / "d")}
    assert "[database_unavailable, BULKHEAD_DATABASE_URL]" in cli.refused("up", "--port", "0", environment=nowhere)
    broken = {"BULKHEAD_CONFIG_FILE": str(cli.folder / "broken.json"), "BULKHEAD_DATA_DIR": str(cli.folder / "d")}
    assert "[bad_configuration" in cli.refused("up", "--port", "0", environment=broken)
    assert "[bad_configuration]" in cli.refused("up", environment={"BULKHEAD_PORT": "many"})


def test_an_empty_session_id_is_named(cli: Cli):
    for command in (["send", "", "hello"], ["events", ""], ["show", ""]):
        assert "the session id is empty [bad_usage]" in cli.refused("sessions", *command)


def test_failures_are_json_where_json_was_asked_for(cli: Cli):
    failure = json.loads(cli.refused("sessions", "show", "sesn_unknown", "--json"))["error"]
    assert failure["code"].startswith("session_not_found")
    assert failure.keys() == {"code", "message", "field", "next_step"}


def test_doctor_says_what_works(cli: Cli):
    findings = {finding["name"]: finding for finding in cli.json("doctor")}
    assert {"python", "postgres", "temporal", "namespace", "docker", "data", "server", "models"} <= findings.keys()
    assert findings["server"]["state"] == "ok"
    assert findings["postgres"]["state"] == "ok"
    assert all(finding["next_step"] for finding in findings.values() if finding["state"] != "ok")


def test_doctor_fails_on_a_machine_that_lacks_a_part(cli: Cli):
    done = cli.run("doctor", environment={"PATH": "/nowhere"})
    assert done.returncode == 1
    assert "no setpriv and no unshare on PATH" in done.stdout
    assert "apt-get install util-linux" in done.stdout
