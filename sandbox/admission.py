"""The way out of sandboxes that are on other machines: each is admitted at the gate of the egress proxies.

What it says there is made here, and lasts in the sandbox and, as a hash, in its row. So a worker that is started
again has nothing to put back, and any proxy can serve any sandbox.
"""

import asyncio
import hashlib
import secrets
from pathlib import Path
from typing import Protocol, runtime_checkable

from sandbox import outfit
from sandbox.contract import SandboxError, SandboxProvider
from sandbox.egress.gate import authority
from sandbox.outlet import Holders, patiently, write

_PASSWORD_BYTES = 32


@runtime_checkable
class Admitting(Protocol):
    """A provider whose sandboxes reach the proxy over the network, if ``has_remote_gate``."""

    @property
    def has_remote_gate(self) -> bool:
        """Whether the gate is the proxies' own; else the provider has an ear for each sandbox, as others have."""
        ...

    async def admit(self, sandbox_id: str, password: str) -> None:
        """Have the sandbox reach the gate with this password from now on; raises `SandboxError`."""
        ...


class AdmissionRecords(Protocol):
    """What a sandbox is known by at the gate; implemented in `controlplane/store/egress.py`."""

    async def expect(self, sandbox_id: str, password_sha256: bytes) -> None:
        """Record the hash of the password that a live sandbox says from now on."""
        ...


class Admissions:
    """`sandbox.outlet.WaysOut` through a gate, which is where the worker asks for certificates too."""

    def __init__(self, gate: tuple[str, int], records: AdmissionRecords, *, ca_file: Path | None = None):
        self._gate = gate
        self._records = records
        self._ca_file = ca_file

    async def prepare(self, sandbox_id: str, provider: SandboxProvider) -> None:
        """See `WaysOut.prepare`."""
        await write(sandbox_id, provider, await asyncio.to_thread(outfit.common_files))

    async def open(self, sandbox_id: str, provider: SandboxProvider) -> None:
        """See `WaysOut.open`. A repeat makes another password, and what is open goes on."""
        if not isinstance(provider, Admitting) or not provider.has_remote_gate:
            raise SandboxError(
                f"the provider {provider.name!r} cannot reach a gate over the network", code="provision_failed"
            )
        password = secrets.token_urlsafe(_PASSWORD_BYTES)
        await self._records.expect(sandbox_id, hashlib.sha256(password.encode()).digest())
        await provider.admit(sandbox_id, password)
        certificate = await patiently(lambda: authority(self._gate, sandbox_id, password))
        own = await asyncio.to_thread(outfit.own_files, certificate, ca_file=self._ca_file)
        await write(sandbox_id, provider, own)

    async def close(self, sandbox_id: str) -> None:
        """See `WaysOut.close`: that its row has ended is what every proxy goes by."""

    async def keep(self, holders: Holders) -> None:
        """See `WaysOut.keep`: nothing is lost with a proxy, or with a worker."""
        del holders
        await asyncio.Event().wait()
