"""One installation of the chart, from its first session to its end: nothing is lost on the way, nothing is left."""

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import AsyncGenerator, Generator
from typing import Any

import pytest

from tests.support.chart import (
    CHART,
    CHECKOUT,
    Release,
    built_image,
    call,
    kubectl,
    nodes_have,
    objects,
    require_cluster,
)
from tests.support.client import Client, run, script, text
from tests.support.emulator import free_port
from tests.support.watch import Watcher

pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(600)]

PARTS = ("api", "gateway", "brain", "sandboxes", "egress", "memory-worker")
VALUES = {"api": "api", "memory-worker": "memoryWorker"}
STEPS = ("one", "two", "three")
TURN_SECONDS = 150
GONE_SECONDS = 60
LEFT_BY_KUBERNETES = {"serviceaccount/default", "configmap/kube-root-ca.crt"}


def ten_commands() -> list[str]:
    """The commands that the document begins with."""
    document = (CHECKOUT / "docs" / "kubernetes.md").read_text()
    found = re.search(r"^```sh\n(.*?)^```$", document, re.MULTILINE | re.DOTALL)
    assert found
    return found[1].splitlines()


def as_documented(release: Release) -> str:
    """Install as the document says, in namespaces of the test's own; return what the last command showed."""
    commands, image, folder = ten_commands(), built_image(), CHECKOUT / "build"
    assert len(commands) == 10
    if nodes_have(image):
        commands = [each for each in commands if "bulkhead.tar" not in each]
    elif "BULKHEAD_TEST_LOAD_IMAGE" not in os.environ:
        pytest.skip(f"the nodes lack {image}, and BULKHEAD_TEST_LOAD_IMAGE names no command that loads it")
    script = "\n".join(["set -euo pipefail", *commands])
    script = script.replace("namespace bulkhead ", f"namespace {release.namespace} ")
    script = script.replace("namespace=bulkhead-sandboxes", f"namespace={release.sandboxes}")
    environment = {
        **os.environ,
        "BULKHEAD_IMAGE": image,
        "BULKHEAD_PORT": str(free_port()),
        "LOAD_IMAGE": os.environ.get("BULKHEAD_TEST_LOAD_IMAGE", ""),
        "BULKHEAD_DATA_DIR": str(folder / "no-such-folder"),
    }
    shell = subprocess.Popen(
        ["bash", "-c", script],
        cwd=CHECKOUT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        said, _ = shell.communicate(timeout=500)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(shell.pid, signal.SIGKILL)  # the forwarded port with it
    assert shell.returncode == 0, f"{said}\n{release.state()}"
    return said


@pytest.fixture(scope="module")
def shown() -> list[str]:
    """What the document's commands showed, once `release` has run them."""
    return []


@pytest.fixture(scope="module")
def release(shown: list[str]) -> Generator[Release]:
    """The installation that the tests of this module share, made as documented; the last test removes it."""
    require_cluster()
    made = Release("bulkhead", "bulkhead-e2e", "bulkhead-e2e-sandboxes")
    try:
        shown.append(as_documented(made))
        with made.forwarded():
            yield made
    finally:
        (CHECKOUT / "build" / "bulkhead.tar").unlink(missing_ok=True)
        call("helm", "uninstall", made.name, f"--namespace={made.namespace}", "--ignore-not-found", check=False)
        kubectl("delete", "namespace", "--ignore-not-found", "--wait=false", made.namespace, made.sandboxes)


@pytest.fixture
async def client(release: Release) -> AsyncGenerator[Client]:
    """A client of the installation."""
    release.until_answers()
    async with Client(release) as made:
        for session in (await made.get("/v1/sessions", limit="100"))["data"]:
            await made.delete(
                f"/v1/sessions/{session['id']}"
            )  # so that its sandbox takes no room from the next test's
        yield made


def work(step_seconds: float) -> str:
    """A message whose commands each leave a trace, and whose last shows them all."""
    steps = [run(f"echo {step} >> /workspace/ran; sleep {step_seconds}") for step in STEPS]
    return script(*steps, run("paste -sd ' ' /workspace/ran"), {"text": "ran: {{result}}"})


def commands_seen(watcher: Watcher) -> int:
    """How many commands a turn has asked for."""
    return len(watcher.of("agent.tool_use"))


async def finished(watcher: Watcher, release: Release) -> None:
    """Wait for a turn's end, and see that each of its commands ran exactly once."""
    try:
        await watcher.until_idle(timeout_seconds=TURN_SECONDS)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{release.state()}") from None
    said = text(watcher.of("agent.message")[-1])
    assert " ".join(STEPS) in said, said
    assert said.count(STEPS[0]) == 1, said


def test_ten_commands_lead_to_the_first_session(release: Release, shown: list[str]) -> None:
    assert "It said:" in shown[0]
    assert "sandbox" in shown[0].rpartition("It said:")[2], "the name of the pod's host"


async def test_a_session_works_in_a_pod(client: Client, release: Release) -> None:
    session_id = await client.session()
    async with client.watching(session_id) as watcher:
        await client.say(session_id, work(0))
        await finished(watcher, release)
    pod = objects("pods", release.sandboxes)[-1]
    assert pod["spec"]["automountServiceAccountToken"] is False
    assert pod["metadata"]["labels"]["app.kubernetes.io/part-of"] == "bulkhead"


async def test_a_sandbox_reaches_nothing_but_the_proxy(client: Client, release: Release) -> None:
    addresses = [each["spec"]["clusterIP"] for each in objects("services", release.namespace)]
    tries = " ".join(f"{address}/{port}" for address in addresses for port in (8400, 8401, 8402, 5432, 7233))
    command = (
        f"for to in {tries}; do (timeout 3 bash -c ': < /dev/tcp/'$to 2> /dev/null && echo open $to) & done;"
        " wait; echo tried"
    )
    asked = "curl -sS -o /dev/null -w '%{http_code}' http://refused.example.com/"
    session_id = await client.session(
        config={"networking": {"type": "limited", "allowed_hosts": ["allowed.example.com"]}}
    )
    async with client.watching(session_id) as watcher:
        await client.say(session_id, script(run(command), run(asked), {"text": "done"}))
        await watcher.until_idle(timeout_seconds=TURN_SECONDS)
    found = [text(each) for each in watcher.of("agent.tool_result")]
    assert "tried" in found[0]
    assert "open" not in found[0]
    assert "403" in found[1], "the proxy answers, and refuses"


@pytest.mark.parametrize("part", PARTS)
async def test_a_killed_part_loses_nothing(client: Client, release: Release, part: str) -> None:
    session_id = await client.session()
    async with client.watching(session_id) as watcher:
        await client.say(session_id, work(2))
        await watcher.until(lambda w: commands_seen(w) >= 2, timeout_seconds=TURN_SECONDS)
        selector = f"app.kubernetes.io/component={part}"
        release.kubectl("delete", "pod", f"--selector={selector}", "--force", "--grace-period=0")
        await finished(watcher, release)
    release.kubectl("rollout", "status", f"deployment/{release.full_name}-{part}", "--timeout=90s")


async def test_an_upgrade_and_a_rollback_lose_nothing(client: Client, release: Release) -> None:
    rolled = ",".join(f"{VALUES.get(part, part)}.podAnnotations.rolled=again" for part in PARTS)
    rolled += ",brain.replicas=2,sandboxes.replicas=2,egress.replicas=2"
    changes = (
        ("upgrade", str(CHART), "--reuse-values", f"--set={rolled}", "--wait", "--timeout=5m"),
        ("rollback", "1", "--wait", "--timeout=5m"),
    )
    for change in changes:
        sessions = [await client.session() for _ in range(2)]
        watchers = [Watcher(release.url, release.api_key, each) for each in sessions]
        for session_id, watcher in zip(sessions, watchers, strict=True):
            await watcher.__aenter__()
            await client.say(session_id, work(4))
        await watchers[0].until(lambda w: commands_seen(w) >= 1, timeout_seconds=TURN_SECONDS)
        await asyncio.to_thread(release.helm, change[0], *change[1:])
        for watcher in watchers:
            await finished(watcher, release)
            await watcher.__aexit__()
        await asyncio.to_thread(release.settle)


def test_helm_test_plays_a_session(release: Release) -> None:
    assert "Phase:          Succeeded" in release.helm("test", "--timeout=3m")


async def test_what_is_removed_leaves_nothing(client: Client, release: Release) -> None:
    session_id = await client.session()
    async with client.watching(session_id) as watcher:
        await client.say(session_id, script(run("echo here"), {"text": "done"}))
        await watcher.until_idle(timeout_seconds=TURN_SECONDS)
    assert objects("pods", release.sandboxes)
    await asyncio.to_thread(release.helm, "uninstall", "--wait", "--timeout=3m")
    until = time.monotonic() + GONE_SECONDS
    while left := what_is_left(release):
        assert time.monotonic() < until, left
        await asyncio.sleep(0.5)


def what_is_left(release: Release) -> set[str]:
    """Return everything that is still there of an installation, in its namespaces and outside of them."""
    kinds = kubectl("api-resources", "--verbs=list", "--namespaced", "--output=name").split()
    wanted = ",".join(kind for kind in kinds if not kind.startswith("events"))
    found = {f"{each['kind'].lower()}/{each['metadata']['name']}" for each in objects(wanted, release.namespace)}
    spaces: list[dict[str, Any]] = json.loads(kubectl("get", "namespaces", "--output=json"))["items"]
    names = {f"namespace/{each['metadata']['name']}" for each in spaces}
    return (found - LEFT_BY_KUBERNETES) | (names & {f"namespace/{release.sandboxes}"})
