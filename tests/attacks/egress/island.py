"""A machine of its own, run under ``unshare -n``: every address that matters is on ``lo`` with a listener behind it.

Prints, as JSON, what a sandbox with unrestricted networking got for each case, and which addresses were reached.
"""

import asyncio
import contextlib
import ipaddress
import json
import socket
import subprocess
import sys
from typing import Any

from tests.attacks.egress.cases import ADDRESSES, CASES, PORTS, Case
from tests.support.egress import Client, Stage, staged


class Listeners:
    """Listens on every address of the machine; keeps the addresses at which somebody arrived."""

    def __init__(self) -> None:
        self.reached: list[str] = []
        self._servers: list[asyncio.Server] = []

    async def start(self) -> None:
        """Listen on the two ports, on every address there is."""
        for port in PORTS:
            for family, host in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
                listener = socket.create_server((host, port), family=family, reuse_port=True)
                self._servers.append(await asyncio.start_server(self._arrived, sock=listener))

    async def _arrived(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reached.append(writer.get_extra_info("sockname")[0])
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nmetadata!")
        with contextlib.suppress(OSError):
            await writer.drain()
        writer.close()


async def main() -> None:
    """Run every case."""
    _make_addresses()
    listeners = Listeners()
    await listeners.start()
    found: dict[str, Any] = {"reachable": await _reachable(listeners)}
    for case in CASES:
        allow = tuple(ipaddress.ip_network(each) for each in case.allow)
        async with staged(table={case.name: [list(each) for each in case.answers]}, allow_cidrs=allow) as stage:
            listeners.reached.clear()
            found[case.id] = await _run(stage, case, listeners)
    json.dump(found, sys.stdout)


async def _run(stage: Stage, case: Case, listeners: Listeners) -> dict[str, Any]:
    await stage.sandbox(networking="unrestricted")
    got: list[Any] = []
    for _ in range(case.times):
        client = await stage.client()
        request = case.request.replace("{ear}", str(stage.ports["sbx_a"]))
        await client.send(request)
        got.append(await _answer(client, case))
        client.close()
    entry = await stage.audit.wait(case.times)
    return {
        "answers": got,
        "reached": list(listeners.reached),
        "asked": stage.resolver.asked,
        "verdict": entry.verdict,
        "reason": entry.reason,
    }


async def _answer(client: Client, case: Case) -> list[Any]:
    answer = await client.answer("CONNECT" if case.request.startswith("CONNECT") else "GET")
    return [answer.status, answer.headers.get("x-bulkhead-reason"), answer.text]


async def _reachable(listeners: Listeners) -> list[str]:
    """Return the addresses that can be reached without the proxy: at these a missing defence is seen."""
    found: list[str] = []
    for address in ADDRESSES:
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(1):
                _, writer = await asyncio.open_connection(address, 80)
                writer.close()
                found.append(address)
    return found


def _make_addresses() -> None:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    for address in ADDRESSES:
        length = 32 if ipaddress.ip_address(address).version == 4 else 128
        subprocess.run(["ip", "address", "add", f"{address}/{length}", "dev", "lo"], check=False, capture_output=True)


if __name__ == "__main__":
    asyncio.run(main())
