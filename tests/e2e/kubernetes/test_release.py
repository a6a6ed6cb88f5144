"""One installation of the chart, from its first session to its end: nothing is lost on the way, nothing is left."""

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
from collections.abc import AsyncGenerator, Generator
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest

from sandbox.kubernetes.gate import address_towards
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
    visit,
)
from tests.support.client import Client, run, script, text
from tests.support.egress import RootAuthority
from tests.support.emulator import Emulator, free_port, shown
from tests.support.slack import connect, footed
from tests.support.watch import Watcher

pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(600)]

PARTS = ("api", "gateway", "brain", "sandboxes", "egress", "memory-worker")
STEPS = ("one", "two", "three")
TURN_SECONDS = 150
HOST, HOST_PORT = "api.test", 8443
"""A server of somebody else's, as sandboxes know it, and where it listens in its pod."""
SECRET = "released-only-to-the-host"


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
def output() -> list[str]:
    """What the document's commands showed, once `release` has run them."""
    return []


@pytest.fixture(scope="module")
def release(output: list[str]) -> Generator[Release]:
    """The installation that the tests of this module share, made as documented; the last test removes it."""
    require_cluster()
    made = Release("bulkhead", "bulkhead-e2e", "bulkhead-e2e-sandboxes")
    try:
        output.append(as_documented(made))
        with made.forwarded():
            yield made
    finally:
        (CHECKOUT / "build" / "bulkhead.tar").unlink(missing_ok=True)
        call("helm", "uninstall", made.name, f"--namespace={made.namespace}", "--ignore-not-found", check=False)
        spaces = (made.namespace, made.sandboxes, made.visitors)
        kubectl("delete", "namespace", "--ignore-not-found", "--wait=false", *spaces)


@pytest.fixture
async def client(release: Release) -> AsyncGenerator[Client]:
    """A client of the installation."""
    release.until_answers()
    async with Client(release) as made:
        for session in (await made.get("/v1/sessions", limit="100"))["data"]:
            await made.delete(f"/v1/sessions/{session['id']}")  # its sandbox takes no room from the next test's
        yield made


async def changed(release: Release, folder: Path, values: dict[str, Any]) -> None:
    """Have the release go on with further values."""
    file = folder / "values.json"
    file.write_text(json.dumps(values))
    told = (str(CHART), "--reuse-values", f"--values={file}", "--wait", "--timeout=3m")
    await asyncio.to_thread(release.helm, "upgrade", *told)
    await asyncio.to_thread(release.settle)


@pytest.fixture(scope="module")
async def vault_id(release: Release, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A vault whose secret is bound to `HOST`, a pod in another namespace; the release is told where that is."""
    folder = tmp_path_factory.mktemp("host")
    root = RootAuthority(folder)
    release.kubectl("create", "secret", "generic", "authorities", f"--from-file=ca.pem={root.file}")
    certificate = f"--from-file=tls.pem={root.certificate(HOST)}"
    kubectl("create", "secret", "generic", "host", f"--namespace={release.visitors}", certificate)
    [image] = release.images()
    pod = visit(release.visitors, "host", image, str(HOST_PORT), secret="host")
    hosts = f"{HOST}={pod['status']['podIP']}:{HOST_PORT}"
    values = {
        "egress": {"settings": {"BULKHEAD_EGRESS_HOSTS": hosts}},
        "secrets": {"egressAuthorities": {"name": "authorities"}},
    }
    await changed(release, folder, values)
    auth = {
        "type": "environment_variable",
        "secret_name": "API_TOKEN",
        "secret_value": SECRET,
        "networking": {"type": "limited", "allowed_hosts": [HOST]},
    }
    async with Client(release) as client:
        vault = await client.post("/v1/vaults", {"display_name": "host"})
        await client.post(f"/v1/vaults/{vault['id']}/credentials", {"auth": auth})
    return vault["id"]


def seen_by_the_host(release: Release, path: str) -> list[str]:
    """Return how each request for a path was authorized."""
    log = kubectl("logs", f"--namespace={release.visitors}", "pod/host").splitlines()
    seen = [json.loads(line) for line in log if line.startswith("[")]
    return [authorization for asked, authorization in seen if asked == path]


@pytest.fixture(scope="module")
async def slack(release: Release, tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Emulator]:
    """A Slack on this machine, with the release as a front door of it."""
    folder = tmp_path_factory.mktemp("slack")
    [node, *_] = objects("pods", release.namespace)
    here = os.environ.get("BULKHEAD_TEST_GATE_ADDRESS") or address_towards(node["status"]["hostIP"])
    async with Emulator(folder, mode="socket", address=here) as emulated, Client(release) as client:
        await connect(client, None, "socket")
        settings = {"BULKHEAD_SLACK_API_URL": f"{emulated.url}/api/"}
        await changed(release, folder, {"slack": {"enabled": True, "settings": settings}})
        yield emulated


async def answered(slack: Emulator, channel: str, thread: str, count: int) -> list[str]:
    """Wait for so many answers in a thread of Slack, and return what all of them say."""
    async with asyncio.timeout(TURN_SECONDS):
        found: list[str] = []
        while len(found) < count:
            await asyncio.sleep(0.2)
            found = [shown(each) for each in await slack.thread(channel, thread) if footed(each)]
    return found


def work(*more: str) -> list[dict[str, Any]]:
    """Steps whose commands each leave a trace, and whose last shows them all; ``more`` is done after a trace each."""
    commands = [f"echo {step} >> /workspace/ran; {then}" for step, then in zip_longest(STEPS, more, fillvalue="")]
    return [*map(run, commands), run("paste -sd ' ' /workspace/ran"), {"text": "ran: {{result}}"}]


def waiting(name: str) -> str:
    """A command that waits until `kill` lets it go on."""
    return f"touch /workspace/{name}; until [ -e /workspace/go ]; do sleep 0.1; done"


async def finished(watcher: Watcher, release: Release) -> None:
    """Wait for a turn's end, and see that each of its commands ran exactly once."""
    try:
        await watcher.until_idle(timeout_seconds=TURN_SECONDS)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{release.state()}") from None
    said = text(watcher.of("agent.message")[-1])
    assert said.splitlines()[0] == f"ran: {' '.join(STEPS)}", said


def test_ten_commands_lead_to_the_first_session(release: Release, output: list[str]) -> None:
    assert "It said:" in output[0]
    assert "sandbox" in output[0].rpartition("It said:")[2], "the name of the pod's host"


async def test_a_session_works_in_a_pod(client: Client, release: Release) -> None:
    session_id = await client.session()
    async with client.watching(session_id) as watcher:
        await client.say(session_id, script(*work()))
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


def kill(release: Release, part: str) -> None:
    """Kill a part's pods while a turn's command waits, and let that go on when they are gone."""
    release.until_in_sandboxes(f"test -e /workspace/{part}", 1)
    selector = f"--selector=app.kubernetes.io/component={part}"
    assert "deleted" in release.kubectl("delete", "pod", selector, "--grace-period=1")
    release.in_sandboxes("touch /workspace/go")


@pytest.mark.parametrize("part", PARTS)
async def test_a_killed_part_loses_nothing(client: Client, release: Release, vault_id: str, part: str) -> None:
    store = await client.post("/v1/memory_stores", {"name": "Notes"})
    session_id = await client.session(
        config={"networking": {"type": "limited", "allowed_hosts": [HOST]}},
        vault_ids=[vault_id],
        resources=[{"type": "memory_store", "memory_store_id": store["id"]}],
    )
    async with client.watching(session_id) as watcher:
        asked = (
            f'until curl -fsS -m 10 -H "Authorization: Bearer $API_TOKEN" https://{HOST}/{part}; do sleep 0.2; done'
        )
        edited = f"echo 'from {part}' > /mnt/memory/notes/{part}.md"
        await client.say(session_id, script(*work(waiting(part), asked, edited)))
        await asyncio.to_thread(kill, release, part)
        await finished(watcher, release)
        deployment = f"deployment/{release.full_name}-{part}"
        await asyncio.to_thread(release.kubectl, "rollout", "status", deployment, "--timeout=90s")
        await asyncio.to_thread(release.until_answers)
        await client.say(session_id, script(run("true"), {"text": "an edit that could not be saved is saved by now"}))
        await watcher.until_idle(times=2, timeout_seconds=TURN_SECONDS)
    seen = seen_by_the_host(release, f"/{part}")
    assert set(seen) == {f"Bearer {SECRET}"}
    assert len(seen) == 1 or part == "egress", "an answer may be lost with the proxy, and be asked for again"
    memories = (await client.get(f"/v1/memory_stores/{store['id']}/memories", view="full"))["data"]
    assert [(each["path"], each["content"]) for each in memories] == [(f"/{part}.md", f"from {part}\n")]


async def test_a_killed_front_door_answers_once(release: Release, slack: Emulator) -> None:
    channel = slack.channels[0]
    thread = await slack.mention(channel, script(*work(waiting("slack"))))
    await asyncio.to_thread(kill, release, "slack")
    await asyncio.to_thread(release.kubectl, "rollout", "status", "deployment/bulkhead-slack", "--timeout=90s")
    await answered(slack, channel, thread, 1)
    await slack.mention(channel, script({"text": "and again"}), thread=thread)
    first, second = await answered(slack, channel, thread, 2)
    assert f"ran: {' '.join(STEPS)}" in first
    assert "and again" in second


async def test_helm_test_plays_a_session_and_leaves_none(client: Client, release: Release) -> None:
    assert "Phase:          Succeeded" in await asyncio.to_thread(release.helm, "test", "--timeout=3m")
    assert "helm test" not in {each["title"] for each in (await client.get("/v1/sessions"))["data"]}


async def test_what_is_removed_leaves_nothing(client: Client, release: Release) -> None:
    session_id = await client.session()
    async with client.watching(session_id) as watcher:
        await client.say(session_id, script(run("echo here"), {"text": "done"}))
        await watcher.until_idle(timeout_seconds=TURN_SECONDS)
    for _ in range(2):  # whose turns ask for sandboxes for as long as there is a brain
        session_id = await client.session()
        async with client.watching(session_id) as watcher:
            await client.say(session_id, script(*[run("sleep 0.5")] * 500, {"text": "done"}))
            await watcher.until(lambda each: each.of("agent.tool_result"), timeout_seconds=TURN_SECONDS)
    await asyncio.to_thread(release.helm, "uninstall", "--wait", "--timeout=3m")
    await asyncio.to_thread(release.until_nothing_is_left, "secret/authorities")
