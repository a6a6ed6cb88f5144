"""`bulkhead up`: one data directory, one user of it; what dies is started again, and nothing is left behind."""

import json
import os
import signal
import stat
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.support.stack import Stack

pytestmark = pytest.mark.slow

PARTS = ["postgres", "temporal", "gateway", "egress", "memory", "sandboxes", "brain", "api"]
GONE_SECONDS = 15
PATIENCE_SECONDS = 60


@pytest.fixture
def own(tmp_path: Path) -> Generator[Stack]:
    """A control plane that the test may stop."""
    running = Stack(tmp_path / "data")
    running.start()
    running.wait_ready()
    yield running
    running.end()


def family(stack: Stack) -> list[psutil.Process]:
    """`up` and every process that comes from it."""
    up = psutil.Process(stack.pid)
    return [up, *up.children(recursive=True)]


def assert_gone(processes: list[psutil.Process]) -> None:
    _, left = psutil.wait_procs(processes, timeout=GONE_SECONDS)
    assert [process.cmdline() for process in left] == []


def until(holds: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def until_ready(stack: Stack) -> None:
    until(lambda: answers(stack), "never ready again")


def answers(stack: Stack) -> bool:
    try:
        return httpx.get(f"{stack.url}/readyz", timeout=10).status_code == 200
    except httpx.HTTPError:
        return False


def made(client: httpx.Client, resource: str, **body: object) -> str:
    response = client.post(f"/v1/{resource}", json=body)
    assert response.status_code == 200, response.text
    return response.json()["id"]


def test_a_stop_leaves_no_process_and_a_start_finds_everything(own: Stack):
    with own.client as client:
        agent = made(client, "agents", name="kept", model="scripted/demo")
    processes, key = family(own), own.api_key
    assert set(own.parts()) == set(PARTS)
    assert len(processes) > len(PARTS)

    assert own.stop(signal.SIGINT) == 0
    assert_gone(processes)
    assert not (own.data_dir / "run" / "url").exists()

    own.start()
    own.wait_ready()
    assert own.api_key == key
    with own.client as client:
        assert client.get(f"/v1/agents/{agent}").json()["name"] == "kept"


def message_of(command: str) -> dict[str, Any]:
    play = [{"tools": [{"name": "sandbox_execute", "input": {"command": command}}]}, {"text": "{{result}}"}]
    return {"type": "user.message", "content": [{"type": "text", "text": f"```script\n{json.dumps(play)}\n```"}]}


def test_a_stop_ends_the_sandboxes_too_and_the_session_goes_on_with_its_files(own: Stack):
    seconds = f"300.{uuid.uuid4().int}"
    message = message_of(f"echo work > /workspace/file; setsid sleep {seconds} > /dev/null 2>&1 &")
    with own.client as client:
        agent = made(client, "agents", name="a", model="scripted/demo")
        environment = made(client, "environments", name="e", config={"type": "cloud", "provider": "namespace"})
        session = made(client, "sessions", agent=agent, environment_id=environment, initial_events=[message])
        idle(client, session, turns=1)
    sleeping = running(seconds)
    assert sleeping
    own.stop(signal.SIGTERM)
    assert "sandboxes put away: 1" in own.tail()
    assert_gone(sleeping)
    assert list((own.data_dir / "sandboxes").iterdir()) == []
    own.start()
    own.wait_ready()
    with own.client as client:
        client.post(f"/v1/sessions/{session}/events", json={"events": [message_of("cat /workspace/file")]})
        idle(client, session, turns=2)
        listed = client.get(f"/v1/sessions/{session}/events", params={"types": "agent.tool_result"}).json()["data"]
    said = listed[-1]["content"][0]["text"]
    assert "this is a new sandbox: the one before it was put away when its host was stopped. Restored as of" in said
    assert said.endswith("work")


def test_sigkill_takes_every_part_along_and_the_next_start_works(own: Stack):
    processes = family(own)
    os.kill(own.pid, signal.SIGKILL)
    assert_gone(processes)
    own.stop()
    own.start()
    own.wait_ready()
    until_ready(own)


@pytest.mark.parametrize("part", PARTS)
def test_a_part_that_dies_is_started_again(stack: Stack, part: str):
    before, restarts = stack.parts()[part], stack.restarts()[part]
    os.kill(before, signal.SIGKILL)
    until(lambda: stack.restarts()[part] > restarts, "never started again")
    assert stack.parts()[part] != before
    until_ready(stack)


def test_what_answers_goes_before_what_works_in_the_background(stack: Stack):
    own = psutil.Process(stack.pid).nice()
    niceness = {name: psutil.Process(pid).nice() for name, pid in stack.parts().items()}
    assert {name for name, nice in niceness.items() if nice == own} == {"api", "postgres"}
    assert all(nice >= own for nice in niceness.values())


def test_a_second_up_on_the_same_data_is_refused(stack: Stack):
    command = [sys.executable, "-m", "controlplane.cli", "up", "--data-dir", str(stack.data_dir), "--port", "0"]
    refused = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert refused.returncode == 1
    assert "another `bulkhead up` uses the data directory" in " ".join(refused.stderr.split())
    assert "Traceback" not in refused.stderr
    until_ready(stack)


def test_a_port_that_is_taken_is_named(stack: Stack, tmp_path: Path):
    port = str(httpx.URL(stack.url).port)
    command = [sys.executable, "-m", "controlplane.cli", "up", "--data-dir", str(tmp_path / "d"), "--port", port]
    refused = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert refused.returncode == 1
    assert f"port {port}" in refused.stderr
    assert "--port" in refused.stderr


def refusal(*options: str) -> str:
    command = [sys.executable, "-m", "controlplane.cli", "up", "--port", "0", *options]
    refused = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert refused.returncode == 1
    return " ".join(refused.stderr.split())


def test_a_host_that_is_not_this_machine_is_refused_at_once(tmp_path: Path):
    data = str(tmp_path / "d")
    elsewhere = refusal("--data-dir", data, "--host", "192.0.2.1")
    assert "'192.0.2.1' is no address of this machine" in elsewhere
    assert "[bad_host, --host]" in elsewhere
    assert "does not resolve" in refusal("--data-dir", data, "--host", "x" * 64)  # too long to be asked for


def test_a_data_directory_that_cannot_be_used_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("")
    for folder in ("/proc/x", str(tmp_path / "file")):
        refused = refusal("--data-dir", folder)
        assert f"nothing can be kept in the data directory {folder}" in refused
        assert "[unusable_data_dir, --data-dir]" in refused


@pytest.mark.skipif(not Path("/proc/net/if_inet6").exists(), reason="this machine has no IPv6")
@pytest.mark.parametrize("host", [pytest.param("::1", marks=pytest.mark.thorough), "::"])
def test_ipv6(tmp_path: Path, host: str):
    stack = Stack(tmp_path / "data", options=("--host", host))
    stack.start()
    stack.wait_ready()
    try:
        assert stack.url.startswith("http://[::1]:")
        assert answers(stack)
    finally:
        stack.end()


def test_secrets_reach_only_the_part_that_needs_them(tmp_path: Path):
    given = {
        "ANTHROPIC_API_KEY": "sk-provider",
        "OPENAI_API_KEY": "sk-other",
        "BULKHEAD_API_KEY": "chosen-by-the-user",
    }
    stack = Stack(tmp_path / "data", environment=given)
    stack.start()
    stack.wait_ready()
    try:
        holders = {name for name, pid in stack.parts().items() if "sk-provider" in str(psutil.Process(pid).environ())}
        assert holders == {"gateway"}
        keyed = [
            name for name, pid in stack.parts().items() if "chosen-by-the-user" in str(psutil.Process(pid).environ())
        ]
        assert keyed == []
        assert stack.api_key == "chosen-by-the-user"
        assert stat.S_IMODE((stack.data_dir / "api-key").stat().st_mode) == 0o600
        assert "sk-provider" not in stack.output.read_text()
    finally:
        stack.end()


@pytest.mark.thorough
def test_a_changed_key_takes_the_place_of_the_first_and_back_again(tmp_path: Path):
    first, second = "the-first-chosen-key", "the-second-chosen-key"
    for key, other in [(first, second), (second, first), (first, second)]:
        stack = Stack(tmp_path / "data", environment={"BULKHEAD_API_KEY": key})
        stack.start()
        stack.wait_ready()
        try:
            assert status_with(stack, key) == 200
            assert status_with(stack, other) == 401
        finally:
            stack.end()


def status_with(stack: Stack, key: str) -> int:
    return httpx.get(f"{stack.url}/v1/agents", headers={"x-api-key": key}).status_code


def running(argument: str) -> list[psutil.Process]:
    """The processes that have the argument, whoever started them."""
    return [each for each in psutil.process_iter(["cmdline"]) if argument in (each.info["cmdline"] or [])]


def idle(client: httpx.Client, session: str, *, turns: int) -> None:
    def ended() -> bool:
        events = client.get(f"/v1/sessions/{session}/events", params={"types[]": "session.status_idle"})
        return len(events.json()["data"]) >= turns

    until(ended, f"session {session} never came to rest")
