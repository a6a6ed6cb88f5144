"""Run where the only name server is this one, on loopback: prints what the resolver of the proxy asked and found."""

import asyncio
import json
import socket
import struct
import sys

from sandbox.egress.addresses import SystemResolver

_A = 1


class NameServer(asyncio.DatagramProtocol):
    """Answers for ``api.test`` only, in DNS's own format; keeps the names that it was asked for."""

    def __init__(self) -> None:
        self.asked: set[str] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way to answer."""
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """Answer one question."""
        labels, at = [], 12
        while data[at]:
            labels.append(data[at + 1 : at + 1 + data[at]].decode())
            at += 1 + data[at]
        name, kind = ".".join(labels), struct.unpack("!H", data[at + 1 : at + 3])[0]
        self.asked.add(name)
        found = name == "api.test" and kind == _A
        flags = 0x8180 if name == "api.test" else 0x8183
        head = data[:2] + struct.pack("!5H", flags, 1, int(found), 0, 0)
        record = b"\xc0\x0c" + struct.pack("!HHIH", _A, 1, 60, 4) + socket.inet_aton("10.9.8.7") if found else b""
        self._transport.sendto(head + data[12 : at + 5] + record, addr)  # type: ignore[attr-defined]


async def main() -> None:
    """Look up a name that exists and one that would only exist under a search domain."""
    server = NameServer()
    await asyncio.get_running_loop().create_datagram_endpoint(lambda: server, local_addr=("127.0.0.1", 53))
    resolver = SystemResolver()
    found = [str(each) for each in await resolver.resolve("api.test")]
    try:
        await resolver.resolve("api")
        missing = "found"
    except OSError:
        missing = "not found"
    resolver.close()
    json.dump({"found": found, "missing": missing, "asked": sorted(server.asked)}, sys.stdout)


if __name__ == "__main__":
    asyncio.run(main())
