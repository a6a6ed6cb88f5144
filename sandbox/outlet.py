"""The way out of each sandbox of a host: its ear in the hands of the proxy, and back there when either has died."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Protocol, TypeVar

import structlog

from sandbox import outfit
from sandbox.contract import SandboxError, SandboxProvider
from sandbox.egress import EarsClient, EarsError, EarsRefusedError

PATIENCE_SECONDS = 15.0
"""How long a new sandbox waits for a proxy that is just being started again; then its call is tried later."""
LOOK_SECONDS = 0.5
"""A look costs the proxy a tenth of a millisecond; what a sandbox asks meanwhile waits at its ear."""

T = TypeVar("T")

_log = structlog.get_logger(__name__)

Holders = Callable[[], Awaitable[Mapping[str, SandboxProvider | None]]]
"""Every live sandbox of this host by id, with its provider if it is to have a way out and can have it by now."""


class WaysOut(Protocol):
    """How sandboxes get to a proxy: `Outlets` on this host, `sandbox.admission.Admissions` over the network."""

    async def prepare(self, sandbox_id: str, provider: SandboxProvider) -> None:
        """Do what can be done before the sandbox belongs to a session; raises what the provider raises."""
        ...

    async def open(self, sandbox_id: str, provider: SandboxProvider) -> None:
        """Give a prepared sandbox its way out, and the certificate of its session's own authority.

        Raises `SandboxError`: ``egress_away`` if the proxy does not answer, ``provision_failed`` if it will not until
        somebody has done something, else what the provider raises.
        """
        ...

    async def close(self, sandbox_id: str) -> None:
        """Take a way out back; a proxy that does not answer is told later."""
        ...

    async def keep(self, holders: Holders) -> None:
        """Put back what the proxy has lost, and take back what is no more, until cancelled."""
        ...


class Outlets:
    """Hands ears to the proxy of this host."""

    def __init__(self, proxy: EarsClient, *, ca_file: Path | None = None):
        self._proxy = proxy
        self._ca_file = ca_file
        self._attached: frozenset[str] | None = None
        self._changes = 0

    async def prepare(self, sandbox_id: str, provider: SandboxProvider) -> None:
        """See `WaysOut.prepare`: take the ear's place, write common files."""
        (await provider.ear(sandbox_id)).close()
        await write(sandbox_id, provider, await asyncio.to_thread(outfit.common_files))

    async def open(self, sandbox_id: str, provider: SandboxProvider) -> None:
        """See `WaysOut.open`."""
        with await provider.ear(sandbox_id) as ear:
            self._note_change()
            await patiently(lambda: self._proxy.attach(sandbox_id, ear))
            self._note_change()
        authority = await patiently(lambda: self._proxy.authority(sandbox_id))
        own = await asyncio.to_thread(outfit.own_files, authority, ca_file=self._ca_file)
        await write(sandbox_id, provider, own)

    async def close(self, sandbox_id: str) -> None:
        """See `WaysOut.close`."""
        self._note_change()
        try:
            await self._proxy.detach(sandbox_id)
        except EarsError as error:
            _log.info("ear_not_taken_back", sandbox_id=sandbox_id, cause=str(error))

    async def keep(self, holders: Holders) -> None:
        """See `WaysOut.keep`."""
        trouble = ""
        while True:
            try:
                if frozenset(await self._proxy.attached()) != self._attached:
                    await self.restore(holders)
                trouble = ""
            except Exception as error:  # noqa: BLE001 - the store or the proxy is away: looked at again in a moment
                if str(error) != trouble:
                    trouble = str(error)
                    _log.warning("ears_not_looked_after", cause=trouble)
            await asyncio.sleep(LOOK_SECONDS)

    async def restore(self, holders: Holders) -> None:
        """Compare what the proxy has with what it should have, and mend the difference; raises `EarsError`."""
        changes = self._changes
        # In this order: what was made in between is known to the second look.
        attached = set(await self._proxy.attached())
        held = await holders()
        for sandbox_id in attached - held.keys():
            await self._proxy.detach(sandbox_id)
        for sandbox_id, provider in held.items():
            if provider is not None and sandbox_id not in attached:
                await self._put_back(sandbox_id, provider)
        attached = set(await self._proxy.attached())
        self._attached = frozenset(attached) if changes == self._changes else None

    def _note_change(self) -> None:
        """What was known of the proxy is so no more: the next look compares everything."""
        self._attached, self._changes = None, self._changes + 1

    async def _put_back(self, sandbox_id: str, provider: SandboxProvider) -> None:
        try:
            with await provider.ear(sandbox_id) as ear:
                await self._proxy.attach(sandbox_id, ear)
        except SandboxError as error:
            _log.warning("ear_not_put_back", sandbox_id=sandbox_id, cause=str(error))
        else:
            _log.info("ear_put_back", sandbox_id=sandbox_id)


async def patiently(order: Callable[[], Awaitable[T]]) -> T:
    """Return what the proxy answers, which may just be started again; raises as `WaysOut.open` says."""
    until = asyncio.get_running_loop().time() + PATIENCE_SECONDS
    while True:
        try:
            return await order()
        except EarsRefusedError as error:
            raise SandboxError(f"the sandbox has no way out: {error}", code="provision_failed") from error
        except EarsError as error:
            if asyncio.get_running_loop().time() > until:
                raise SandboxError(f"the sandbox has no way out yet: {error}", code="egress_away") from error
        await asyncio.sleep(LOOK_SECONDS)


async def write(sandbox_id: str, provider: SandboxProvider, files: Mapping[str, bytes]) -> None:
    """Write files whole, by path."""
    for path, content in files.items():
        await provider.write_file(sandbox_id, path, _whole(content))


async def _whole(content: bytes) -> AsyncIterator[bytes]:
    yield content
