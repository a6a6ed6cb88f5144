"""What is to be had in a pod and nowhere else: a card, a node, an API server, neighbours, labels, a shared user."""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from sandbox.contract import ExecRequest, SandboxError, SandboxLostError, SandboxSpec
from sandbox.kubernetes import KubernetesOptions, KubernetesProvider
from sandbox.kubernetes.api import Api, ApiError
from sandbox.kubernetes.pod import SANDBOX_ID, manifest, pod_name
from sandbox.kubernetes.policy import policy
from sandbox.supervisor.ear import ADDRESS
from tests.support import cluster
from tests.support.sandboxes import SMALL, Box, python

pytestmark = [
    pytest.mark.kubernetes,
    pytest.mark.parametrize("make_provider", ["kubernetes"], indirect=True),
]
_CALL = f"import socket; s = socket.socket(); s.settimeout(20); s.connect({ADDRESS}); print(s.recv(10))"


@pytest.fixture
async def api() -> AsyncGenerator[Api]:
    """The tests' own way to the API server."""
    made = Api()
    yield made
    await made.close()


def namespace() -> str:
    return os.environ["BULKHEAD_TEST_NAMESPACE"]


def pods() -> str:
    return f"/api/v1/namespaces/{namespace()}/pods"


def installation() -> str:
    return f"test{os.getpid()}"


def reaches(address: str, port: int) -> bool:
    """Say whether this machine, which no policy binds, gets a connection."""
    with socket.socket() as probe:
        probe.settimeout(3)
        return probe.connect_ex((address, port)) == 0


async def test_no_account_of_the_cluster_is_in_a_pod(box: Box) -> None:
    found = await box.run("find / -xdev -name '*serviceaccount*' -o -name token -path '*run*' 2>/dev/null; env")
    assert found.exit_code == 0
    for word in ("serviceaccount", "token", "KUBERNETES", "BULKHEAD", "10.96."):
        assert word not in found.stdout


async def node_port(api: Api, server: tuple[str, int]) -> int:
    """Have a port of every node lead to the API server, and return it."""
    folder, ports = f"/api/v1/namespaces/{namespace()}", [{"port": server[1]}]
    body = {"metadata": {"name": "way-in"}, "spec": {"type": "NodePort", "ports": ports}}
    made = await api.ask("POST", f"{folder}/services", {"apiVersion": "v1", "kind": "Service", **body})
    subsets = [{"addresses": [{"ip": server[0]}], "ports": ports}]
    ends = {"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "way-in"}, "subsets": subsets}
    await api.ask("POST", f"{folder}/endpoints", ends)
    return made["spec"]["ports"][0]["nodePort"]


async def test_what_a_pod_could_reach_without_a_policy_it_does_not(box: Box, api: Api) -> None:
    ends = (await api.ask("GET", "/api/v1/namespaces/default/endpoints/kubernetes"))["subsets"][0]
    server = ends["addresses"][0]["ip"], ends["ports"][0]["port"]
    service = (await api.ask("GET", "/api/v1/namespaces/default/services/kubernetes"))["spec"]
    node = (await api.ask("GET", "/api/v1/nodes"))["items"][0]["status"]["addresses"][0]["address"]
    named = await api.ask("GET", "/api/v1/namespaces/kube-system/pods", labelSelector="k8s-app=kube-dns")
    targets = [
        server,
        (service["clusterIP"], service["ports"][0]["port"]),
        (node, 10250),
        (node, await node_port(api, server)),
        *((pod["status"]["podIP"], 53) for pod in named["items"]),
    ]
    for _ in range(50):
        if all(reaches(*target) for target in targets):
            break
        await asyncio.sleep(0.1)
    assert {target: reaches(*target) for target in targets} == dict.fromkeys(targets, True)
    tried = await box.python(
        "import socket\n"
        f"for target in {[*targets, ('169.254.169.254', 80)]!r}:\n"
        "    s = socket.socket(); s.settimeout(3)\n"
        "    try: s.connect(target); print('reached', target)\n"
        "    except OSError as error: print('closed')\n"
    )
    assert tried.stdout.split() == ["closed"] * (len(targets) + 1), tried


@pytest.mark.parametrize(
    "attempt",
    [
        "socket.socket(socket.AF_INET6).connect(('fe80::1', 10250, 0, 2))",
        "socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).sendto(b'x', ('ff02::1', 5353, 0, 2))",
        "socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('169.254.169.254', 53))",
        "socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('10.96.0.10', 53))",
        "socket.socket(socket.AF_INET, socket.SOCK_DGRAM, 1)",
        "socket.socket(socket.AF_INET, socket.SOCK_STREAM, 132)",
        "socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)",
    ],
)
async def test_no_socket_is_to_be_had_that_a_policy_might_not_see(box: Box, attempt: str) -> None:
    result = await box.python(f"import socket\ntry: {attempt}\nexcept OSError as error: print(error.errno)")
    assert result.stdout in {"13\n", "97\n"}, result


async def test_a_network_that_does_not_keep_to_its_policy_gets_no_sandbox(
    make_provider: Any, pods_namespace: None, api: Api
) -> None:
    open_one = KubernetesProvider(cluster.options(f"open{os.getpid()}", canary="full"))
    folder = f"/apis/networking.k8s.io/v1/namespaces/{namespace()}/networkpolicies"

    async def take_policy_away() -> None:
        while True:  # the provider puts it back
            with contextlib.suppress(ApiError):
                await api.ask("DELETE", f"{folder}/{policy(f'open{os.getpid()}', ('', 0))['metadata']['name']}")
            await asyncio.sleep(0.05)

    await open_one.provision("sbx_shut", SMALL)
    taking = asyncio.create_task(take_policy_away())
    try:
        with pytest.raises(SandboxError, match=r"reaches the network.*does not keep to the NetworkPolicy") as caught:
            await open_one.provision("sbx_open", SMALL)
        assert caught.value.code == "provision_failed"
        assert await open_one.list_ids() == ["sbx_shut"]
        with pytest.raises(ApiError):
            await api.ask("GET", f"{pods()}/{pod_name(f'open{os.getpid()}', 'sbx_open')}")
    finally:
        taking.cancel()
        await open_one.destroy("sbx_shut")
        await open_one.close()


async def test_a_policy_that_is_taken_away_is_put_back(provider: Any, api: Api) -> None:
    await provider.provision("sbx_before", SMALL)
    name = policy(installation(), ("", 0))["metadata"]["name"]
    own = f"/apis/networking.k8s.io/v1/namespaces/{namespace()}/networkpolicies/{name}"
    wanted = (await api.ask("GET", own))["spec"]
    await api.ask("DELETE", own)
    await provider.provision("sbx_after", SMALL)
    assert (await api.ask("GET", own))["spec"] == wanted


async def test_a_policy_that_another_adds_gets_no_sandbox(provider: Any, api: Api) -> None:
    await provider.provision("sbx_before", SMALL)
    folder = f"/apis/networking.k8s.io/v1/namespaces/{namespace()}/networkpolicies"
    more = {"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}]}
    made = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "more"}}
    await api.ask("POST", folder, {**made, "spec": more})
    try:
        with pytest.raises(SandboxError, match="network policy 'more' lets pods out") as caught:
            await provider.provision("sbx_after", SMALL)
        assert caught.value.code == "provision_failed"
    finally:
        await api.ask("DELETE", f"{folder}/more")
    assert await provider.list_ids() == ["sbx_before"]


async def test_no_command_is_heard_by_process_1(box: Box) -> None:
    code = (
        "import socket\n"
        "for said in (b'', b'\\0' * 64, b'\\0' * 200):\n"
        "    s = socket.socket(socket.AF_UNIX); s.settimeout(10); s.connect('\\0bulkhead')\n"
        "    try: s.sendall(said); print(s.recv(100))\n"
        "    except OSError as error: print(b'')\n"
    )
    assert (await box.python(code)).stdout.split() == ["b''"] * 3


_BRIDGES = "grep -l '^PPid:.0$' /proc/[0-9]*/status | cut -d/ -f3 | grep -vx 1"


async def test_a_bridge_that_is_killed_only_interrupts(box: Box) -> None:
    assert (await box.run(_BRIDGES)).stdout.split() != []
    result = await box.run(f"echo before; kill -9 $({_BRIDGES}); sleep 1; echo after")
    assert (result.status, result.stdout) == ("exited", "before\nafter\n")


async def test_a_bridge_that_is_stopped_holds_up_nobody(box: Box) -> None:
    hasty = KubernetesProvider(cluster.options(installation()), order_seconds=1)
    try:
        request = _request(f"echo before; kill -STOP $({_BRIDGES}); sleep 1; echo after")
        result = await hasty.execute(box.sandbox_id, request)
        assert (result.status, result.stdout) == ("exited", "before\nafter\n")
    finally:
        await hasty.close()


async def test_a_worker_with_another_key_does_not_take_a_sandbox_for_lost(box: Box) -> None:
    other = KubernetesProvider(cluster.options(installation(), key="the key after a rotation"))
    try:
        with pytest.raises(SandboxError, match="hangs up on every connection although its pod runs") as caught:
            await other.exec_state(box.sandbox_id, "none")
        assert caught.value.code == "engine_away"
        assert (await box.run("echo here")).stdout == "here\n"
        await box.provider.destroy(box.sandbox_id)
        with pytest.raises(SandboxLostError):
            await other.exec_state(box.sandbox_id, "none")
    finally:
        await other.close()


async def test_a_bridge_that_is_killed_while_a_file_is_written_loses_no_sandbox(box: Box) -> None:
    async def content() -> AsyncGenerator[bytes]:
        yield b"first"
        # It is gone before it can tell its own end, so that the answer comes over the next one.
        await box.run(f"kill -9 $({_BRIDGES})")
        yield b"second"

    with pytest.raises(SandboxError, match="broke while") as caught:
        await box.provider.write_file(box.sandbox_id, "/workspace/file", content())
    assert caught.value.code == "engine_away"
    assert (await box.run("ls -A /workspace")).stdout == ""


async def test_a_bridge_cannot_be_read_or_traced(box: Box) -> None:
    bridge = (await box.run(_BRIDGES)).stdout.split()[0]
    tried = await box.run(f"cat /proc/{bridge}/environ; ls /proc/{bridge}/fd; head -c 1 /proc/{bridge}/mem")
    assert (tried.stdout, tried.stderr.count("denied")) == ("", 3), tried


async def test_a_relay_that_is_killed_only_interrupts(box: Box) -> None:
    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"heard\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(greet, sock=await box.provider.ear(box.sandbox_id))
    async with server:
        assert "heard" in (await box.python(_CALL)).stdout
        me = "$(cut -d' ' -f4 /proc/$$/stat)"
        killed = await box.run(
            f"for p in $(grep -l '^PPid:.1$' /proc/[0-9]*/status | cut -d/ -f3); do"
            f" test $p = {me} || kill -9 $p && echo killed; done"
        )
        assert "killed" in killed.stdout
        assert "heard" in (await box.python(_CALL)).stdout


async def test_the_file_for_last_words_does_not_fill_the_nodes_disk(box: Box) -> None:
    waited = await box.run(
        "head -c 30000000 /dev/zero > /.bulkhead-end; "
        "until test $(wc -c < /.bulkhead-end) -lt 100000; do sleep 0.1; done; echo small",
        timeout_seconds=30,
    )
    assert waited.stdout == "small\n"


async def test_labels_make_no_pod_anothers(box: Box, api: Api) -> None:
    assert isinstance(box.provider, KubernetesProvider)
    other = "sbx_other"
    await box.provider.provision(other, SMALL)
    mine = f"{pods()}/{pod_name(installation(), box.sandbox_id)}"
    note = {"metadata": {"labels": {SANDBOX_ID: other}, "annotations": {SANDBOX_ID: other}}}
    await api.ask("PATCH", mine, note)
    forged = manifest(other, SMALL, cluster.options(installation()), targets=[], own_users=False)
    forged["metadata"]["name"] = "forged"
    await api.ask("POST", pods(), forged)
    try:
        assert await box.provider.list_ids() == [other]
        assert (await box.run("echo mine > mark; cat mark")).stdout == "mine\n"
        assert "mark" not in str(await box.provider.list_files(other, "/workspace"))
        await box.provider.destroy(other)
        assert await box.read("/workspace/mark") == b"mine\n"
        assert (await api.ask("GET", f"{pods()}/forged"))["metadata"]["name"] == "forged"
    finally:
        await api.ask("DELETE", f"{pods()}/forged", {"kind": "DeleteOptions", "gracePeriodSeconds": 0})
        await box.provider.destroy(box.sandbox_id)


async def test_a_pod_in_anothers_place_is_not_obeyed_and_not_given_the_key(box: Box, api: Api) -> None:
    """Whoever may make pods puts one of his own in a sandbox's place, under its name, as if it were proven."""
    name = pod_name(installation(), box.sandbox_id)
    real = await api.ask("GET", f"{pods()}/{name}")
    await box.provider.destroy(box.sandbox_id)
    forged = manifest(box.sandbox_id, SMALL, cluster.options(installation()), targets=[], own_users=False)
    forged["metadata"]["annotations"] = real["metadata"]["annotations"]
    await api.ask("POST", pods(), forged)
    with pytest.raises(SandboxError, match="cannot be entered"):
        await box.provider.execute(box.sandbox_id, _request(python("print('obeyed')")))


async def _refusal(options: KubernetesOptions, spec: SandboxSpec = SMALL) -> str:
    refused = KubernetesProvider(options, start_seconds=15)
    try:
        with pytest.raises(SandboxError) as caught:
            await refused.provision("sbx_never", spec)
        assert caught.value.code == "provision_failed"
        assert await refused.list_ids() == []
    finally:
        await refused.close()
    return str(caught.value)


async def test_why_a_pod_does_not_begin_is_said_in_the_clusters_own_words(
    make_provider: Any, pods_namespace: None, api: Api
) -> None:
    options = cluster.options(f"never{os.getpid()}")
    absent = SMALL.model_copy(update={"image": "127.0.0.1:9/absent:1"})
    assert "ErrImagePull" in await _refusal(options, absent)
    nowhere = options.model_copy(update={"node_selector": {"bulkhead.dev/no-such": "node"}})
    assert "FailedScheduling" in await _refusal(nowhere)
    folder = f"/api/v1/namespaces/{namespace()}/resourcequotas"
    quota = {"metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}}
    await api.ask("POST", folder, {"apiVersion": "v1", "kind": "ResourceQuota", **quota})
    try:
        async with contextlib.aclosing(api.watch(folder, fieldSelector="metadata.name=none")) as changes:
            async for change in changes:
                if change["object"]["status"].get("hard"):
                    break
        assert "exceeded quota" in await _refusal(options)
    finally:
        await api.ask("DELETE", f"{folder}/none")


def _request(command: str) -> ExecRequest:
    return ExecRequest(exec_id="any", command=command)


async def test_a_worker_that_has_closed_its_connections_opens_none_for_what_goes_on(box: Box) -> None:
    other = box.make_provider()
    assert box.sandbox_id in await other.list_ids()
    await other.close()
    with pytest.raises(SandboxError, match="closed"):
        await other.list_ids()
