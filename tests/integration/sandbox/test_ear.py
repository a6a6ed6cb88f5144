"""The proxy's ear inside a sandbox: a listening socket on its own loopback, the same for every process that asks."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator

import pytest

from sandbox.contract import SandboxError, SandboxLostError
from sandbox.supervisor.ear import ADDRESS
from tests.support.sandboxes import Box, ProviderFactory

_CALL = (
    "import socket; s = socket.socket(); s.settimeout(10); "
    f"s.connect({ADDRESS}); open('connected', 'w').close(); print(s.makefile().readline())"
)


@contextlib.asynccontextmanager
async def listening(ear: socket.socket) -> AsyncGenerator[None]:
    """Greet whoever connects to the ear."""

    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"heard\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(greet, sock=ear)
    async with server:
        yield


async def test_a_command_reaches_who_listens_at_the_ear(box: Box) -> None:
    before = await box.python(_CALL)
    assert "ConnectionRefusedError" in before.stderr
    async with listening(await box.provider.ear(box.sandbox_id)):
        assert (await box.python(_CALL)).stdout.strip() == "heard"


async def test_the_ear_is_not_on_the_hosts_loopback(box: Box) -> None:
    with await box.provider.ear(box.sandbox_id), socket.socket() as probe:
        assert probe.connect_ex(ADDRESS) != 0


async def test_the_same_ear_comes_back_to_another_process_and_keeps_who_waited(
    box: Box, make_provider: ProviderFactory
) -> None:
    (await box.provider.ear(box.sandbox_id)).close()
    waiting = asyncio.create_task(box.python(_CALL))
    await box.until_exists("/workspace/connected")
    other = make_provider()
    try:
        async with listening(await other.ear(box.sandbox_id)):
            assert (await waiting).stdout.strip() == "heard"
    finally:
        await other.close()


_SQUAT = """
import itertools, socket
hosts = [(socket.AF_INET, '127.0.0.1'), (socket.AF_INET, '0.0.0.0'), (socket.AF_INET6, '::')]
options = [[], [socket.SO_REUSEADDR], [socket.SO_REUSEPORT], [socket.SO_REUSEADDR, socket.SO_REUSEPORT]]
for (family, host), chosen in itertools.product(hosts, options):
    try:
        s = socket.socket(family)
        for option in chosen:
            s.setsockopt(socket.SOL_SOCKET, option, 1)
        s.bind((host, 3128)); s.listen()
        print('took', host, chosen)
    except OSError as error:
        print('refused', error.errno)
"""


async def test_no_command_can_take_the_ears_place_even_while_nobody_serves_it(box: Box) -> None:
    (await box.provider.ear(box.sandbox_id)).close()
    result = await box.python(_SQUAT)
    # Either the place is taken, or there is no such place: in a pod nobody can make a socket of version 6.
    refused = {"refused 98", "refused 97"} if box.provider.name == "kubernetes" else {"refused 98"}
    assert set(result.stdout.split("\n")) == refused | {""}, result


async def test_no_command_can_get_at_the_ears_descriptor(box: Box) -> None:
    (await box.provider.ear(box.sandbox_id)).close()
    code = (
        "import ctypes, os\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "try:\n    print('fds', os.listdir('/proc/1/fd'))\n"
        "except OSError as error:\n    print('refused', error.errno)\n"
        "pid = libc.syscall(434, 1, 0)\n"
        "print([n for n in range(3, 64) if libc.syscall(438, pid, n, 0) >= 0])"
    )
    result = await box.python(code)
    assert result.stdout.splitlines() == ["refused 13", "[]"], result


async def test_a_place_that_a_command_has_taken_first_is_said_to_be_taken(box: Box) -> None:
    squatter = "import socket, time; s = socket.create_server(('127.0.0.1', 3128)); open('up', 'w'); time.sleep(60)"
    squatting = asyncio.create_task(box.python(squatter, exec_id="squatter"))
    await box.until_exists("/workspace/up")
    with pytest.raises(SandboxError, match=r"the proxy's ear cannot be at 127\.0\.0\.1:3128: Address already in use"):
        await box.provider.ear(box.sandbox_id)
    await box.provider.kill(box.sandbox_id, "squatter")
    await squatting


async def test_a_sandbox_that_is_gone_has_no_ear(box: Box) -> None:
    await box.provider.destroy(box.sandbox_id)
    with pytest.raises(SandboxLostError, match="is gone"):
        await box.provider.ear(box.sandbox_id)
