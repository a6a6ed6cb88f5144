"""Reaching a destination: vetted addresses, and TLS that is verified by the destination's name alone."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Sequence
from pathlib import Path

from sandbox.egress.addresses import AddressError, AddressRules, Endpoint, Resolver, endpoints
from sandbox.egress.channel import Channel, SocketChannel, TlsChannel
from sandbox.egress.destination import Destination
from sandbox.egress.limits import CONNECT_SECONDS
from sandbox.egress.revocation import Watched
from sandbox.egress.rules import FailedError, RefusedError


def upstream_context(ca_file: Path | None) -> ssl.SSLContext:
    """Return the context for upstreams: the machine's roots, and those of ``ca_file``; raises `OSError`."""
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    if ca_file is not None:
        context.load_verify_locations(ca_file)
    return context


class Dialler:
    """Opens connections to destinations that have been allowed."""

    def __init__(self, rules: AddressRules, resolver: Resolver, context: ssl.SSLContext):
        self._rules = rules
        self._resolver = resolver
        self._context = context

    async def vet(self, destination: Destination) -> list[Endpoint]:
        """Return where to dial; raises `RefusedError` for a refused address, `FailedError` if there is none."""
        try:
            return await endpoints(destination, self._rules, self._resolver)
        except AddressError as error:
            raise RefusedError("address_not_allowed", str(error)) from error
        except (OSError, UnicodeError) as error:
            raise FailedError("name_not_found", f"Host {destination.host} has no address.") from error

    async def dial(self, destination: Destination, where: Sequence[Endpoint]) -> SocketChannel:
        """Connect to the first endpoint that answers; raises `FailedError`."""
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                return await _first(where)
        except OSError as error:
            raise FailedError(
                "upstream_unreachable", f"Host {destination.host} does not accept a connection on its port."
            ) from error

    async def secure(self, destination: Destination, below: SocketChannel) -> TlsChannel:
        """Agree on TLS with the destination; raises `FailedError` before anything was sent."""
        channel = TlsChannel(below, self._context, server_name=destination.host)
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await channel.handshake()
        except ssl.SSLCertVerificationError as error:
            raise FailedError(
                "upstream_certificate",
                f"The certificate of host {destination.host} is not valid: {error.verify_message}.",
            ) from error
        except OSError as error:
            raise FailedError("upstream_tls", f"Host {destination.host} does not speak TLS as it should.") from error
        return channel


class Upstreams:
    """The one upstream connection that a client connection keeps."""

    def __init__(self, dialler: Dialler, watched: Watched):
        self._dialler = dialler
        self._watched = watched
        self._destination: Destination | None = None
        self._below: SocketChannel | None = None
        self._channel: Channel | None = None

    def kept(self, destination: Destination) -> Channel | None:
        """Return the connection of the last request if it leads there and is still good."""
        if self._channel and destination == self._destination and self._channel.is_quiet():
            return self._channel
        return None

    async def open(self, destination: Destination, where: Sequence[Endpoint]) -> Channel:
        """Open a connection in place of the last one; raises `FailedError`."""
        self.close()
        below = self._below = await self._dialler.dial(destination, where)
        self._watched.channels.append(below)
        self._channel = below if destination.scheme == "http" else await self._dialler.secure(destination, below)
        self._destination = destination
        return self._channel

    def abort(self) -> None:
        """End the connection now; who reads from it sees its end."""
        if self._below:
            with contextlib.suppress(OSError):
                self._below.socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection."""
        if self._below:
            self._watched.channels.remove(self._below)
            self._below.close()
        self._below = self._channel = self._destination = None


async def _first(where: Sequence[Endpoint]) -> SocketChannel:
    last: OSError | None = None
    for endpoint in where:
        family = socket.AF_INET6 if ":" in endpoint[0] else socket.AF_INET
        connection = socket.socket(family, socket.SOCK_STREAM)
        connection.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(connection, endpoint)
            return SocketChannel(connection)
        except OSError as error:
            connection.close()
            last = error
        except BaseException:
            connection.close()
            raise
    raise last or OSError("there is no address")
