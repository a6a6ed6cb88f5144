"""Bytes leave in the order in which they were given, and an end is an end wherever it comes."""

import asyncio
import contextlib
import socket
import ssl
from itertools import pairwise
from pathlib import Path

import pytest

from sandbox.egress.channel import SocketChannel, TlsChannel
from tests.support.egress import RootAuthority

_MB = 1 << 20


async def test_of_three_senders_each_waits_for_its_turn() -> None:
    near, far = socket.socketpair()
    channel = SocketChannel(near)

    async def first_and_last() -> None:
        await channel.send(b"a" * _MB)
        # At once, while the second, which has waited since before, has not been woken yet.
        await channel.send(b"c" * _MB)

    senders = [asyncio.create_task(first_and_last())]
    await asyncio.sleep(0)
    senders.append(asyncio.create_task(channel.send(b"b" * _MB)))
    await asyncio.sleep(0)
    with far:
        came = await asyncio.to_thread(_read, far, 3 * _MB)
    await asyncio.gather(*senders)
    channel.close()
    assert came == b"a" * _MB + b"b" * _MB + b"c" * _MB


async def test_a_sender_that_is_given_up_keeps_nobody_waiting() -> None:
    near, far = socket.socketpair()
    channel = SocketChannel(near)
    senders = [asyncio.create_task(channel.send(each * _MB)) for each in (b"a", b"b")]
    await asyncio.sleep(0)
    for each in senders:
        each.cancel()
    await asyncio.gather(*senders, return_exceptions=True)
    last = asyncio.create_task(channel.send(b"end"))
    with far:
        came = b""
        while not came.endswith(b"end"):
            came += await asyncio.to_thread(far.recv, _MB)
    await last
    channel.close()
    assert set(came) == {ord("a"), *b"end"}


@pytest.mark.parametrize("lost", [0, 1, 20, 21, 24, 25])
@pytest.mark.parametrize("step", [1, 7, 100_000])
async def test_tls_is_read_to_its_end_however_it_arrives(tmp_path: Path, lost: int, step: int) -> None:
    root = RootAuthority(tmp_path)
    trusted = ssl.create_default_context(cafile=str(root.file))
    near, far = socket.socketpair()
    below = SocketChannel(near)
    channel = TlsChannel(below, root.server_context("api.test"))
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = trusted.wrap_bio(incoming, outgoing, server_hostname="api.test")
    far.setblocking(False)
    agreeing = asyncio.create_task(channel.handshake())
    while not agreeing.done():
        await _turn(client, incoming, outgoing, far)
    await agreeing
    for part in (b"one", b"two"):
        client.write(part)
    records = outgoing.read()
    sent = records[: len(records) - lost]
    reading = asyncio.create_task(_all(channel))
    for start, end in pairwise([*range(0, len(sent), step), len(sent)]):
        await asyncio.get_running_loop().sock_sendall(far, sent[start:end])
        await asyncio.sleep(0)
    # Without a goodbye.
    far.close()
    async with asyncio.timeout(5):
        assert await reading == (b"onetwo" if lost == 0 else b"one")
    below.close()


async def _turn(client: ssl.SSLObject, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, far: socket.socket) -> None:
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    if data := outgoing.read():
        await asyncio.get_running_loop().sock_sendall(far, data)
    await asyncio.sleep(0.01)
    with contextlib.suppress(BlockingIOError):
        incoming.write(far.recv(65536))


async def _all(channel: TlsChannel) -> bytes:
    came = b""
    while data := await channel.receive():
        came += data
    return came


def _read(far: socket.socket, size: int) -> bytes:
    came = bytearray()
    while len(came) < size:
        came += far.recv(_MB)
    return bytes(came)
