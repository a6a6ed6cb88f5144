"""How this process reaches the API server: from inside a pod, or as a kubeconfig says.

What `kubernetes.aio` does not do is done here: it renews no token of a kubeconfig by itself, says nothing to its
caller if the program that is to give one fails, and waits for that program without end.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import yaml
from kubernetes.aio.client import Configuration
from kubernetes.aio.config import ConfigException, load_incluster_config, load_kube_config
from kubernetes.aio.stream import WsApiClient

from sandbox.contract import SandboxError

_ACCOUNT_TOKEN = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
_HELPER_SECONDS = 60
"""A program that asks a cloud for a token may ask the network twice."""
HEARTBEAT_SECONDS = 20
"""How often a quiet stream is asked whether its other end is there; half as long is waited for the answer."""

Refusal = Callable[[Any], Awaitable[None]]


class Access:
    """An API server, and who this process is to it. Belongs to one event loop."""

    def __init__(self, configuration: Configuration):
        self._configuration = configuration
        self._renewing = asyncio.Lock()
        self.client = WsApiClient(configuration, heartbeat=HEARTBEAT_SECONDS)

    @property
    def server(self) -> str:
        """The API server's address, as a URL."""
        return str(self._configuration.host).rstrip("/")

    async def headers(self) -> dict[str, str]:
        """Return the headers of a request, with a service account's token as it is now."""
        token: str | None = await self._configuration.get_api_key_with_prefix("BearerToken")
        return {} if token is None else {"Authorization": token}

    async def renewed(self, refused: dict[str, str]) -> dict[str, str]:
        """Return headers in place of those that the API server has refused; raises `SandboxError`."""
        async with self._renewing:
            if await self.headers() == refused:
                await _load(self._configuration)
            return await self.headers()

    async def close(self) -> None:
        """Release connections."""
        await self.client.close()


async def find_access(refuse: Refusal | None = None) -> Access:
    """Return the way that this process has; raises `SandboxError` (``engine_away``) with the next step.

    ``refuse`` is awaited with every answer's head and raises what a refusal is to become.
    """
    configuration = Configuration()
    configuration.connection_pool_maxsize = 0
    """Every sandbox has a stream of its own; the library's 100 would be all that a worker can hold."""
    await _load(configuration)
    configuration.client_session_kwargs = {
        "trust_env": False, "proxy": configuration.proxy, "raise_for_status": refuse
    }  # fmt: skip
    return Access(configuration)


async def _load(configuration: Configuration) -> None:
    named = os.environ.get("KUBECONFIG")
    try:
        if named is None and _has_account():
            load_incluster_config(configuration)
            return
        async with asyncio.timeout(_HELPER_SECONDS):
            await load_kube_config(
                named or "~/.kube/config", client_configuration=configuration, persist_config=False
            )
        _refuse_nobody(configuration)
    except (ConfigException, OSError, TypeError, ValueError, AttributeError, KeyError, yaml.YAMLError) as error:
        raise SandboxError(
            f"no way to a Kubernetes API server: {type(error).__name__}: {error}; set KUBECONFIG to a file whose "
            "current context is a cluster, or run in a pod with a service account",
            code="engine_away",
        ) from error


def _has_account() -> bool:
    return _ACCOUNT_TOKEN.exists()


def _refuse_nobody(configuration: Configuration) -> None:
    if configuration.host.startswith("https") and not (configuration.api_key or configuration.cert_file):
        raise ConfigException("its user has no token and no certificate, or the program that gives them failed")
