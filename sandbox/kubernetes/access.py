"""How this process reaches the API server: from inside a pod, or as a kubeconfig says.

What `kubernetes.aio` does not do is done here: it renews nothing of a kubeconfig by itself, says nothing to its
caller if the program that is to give a token fails, waits for that program without end, keeps keys in files for as
long as the process lives, and quotes whole entries of a kubeconfig when a part of one is missing.
"""

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Awaitable, Callable, Generator
from pathlib import Path
from typing import Any

import yaml
from aiohttp import ClientError, ClientSession
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.config import ConfigException, kube_config, load_incluster_config, load_kube_config

from sandbox.contract import SandboxError

_ACCOUNT_TOKEN = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
_HELPER_SECONDS = 60
"""A program that asks a cloud for a token may ask the network twice."""
_AGAIN_SECONDS = 5.0
"""After a program has failed, others that wait for its token are told so, instead of starting it again one by one."""

Refusal = Callable[[Any], Awaitable[None]]


class Access:
    """An API server, and who this process is to it. Belongs to one event loop."""

    def __init__(self, configuration: Configuration):
        self._configuration = configuration
        self._renewing = asyncio.Lock()
        self._failure: tuple[float, SandboxError] | None = None
        self.client = ApiClient(configuration)

    @property
    def server(self) -> str:
        """The API server's address, as a URL."""
        return str(self._configuration.host).rstrip("/")

    @property
    def server_name(self) -> str | None:
        """The name in the API server's certificate, where it is not the address's."""
        return self._configuration.tls_server_name

    @property
    def session(self) -> ClientSession:
        """What the client sends requests with."""
        rest = self.client.rest_client
        if rest.pool_manager is None:
            rest.pool_manager = rest._create_pool_manager()  # pyright: ignore[reportPrivateUsage]
        return rest.pool_manager

    async def headers(self) -> dict[str, str]:
        """Return the headers of a request, with a service account's token as it is now."""
        token: str | None = await self._configuration.get_api_key_with_prefix("BearerToken")
        return {} if token is None else {"Authorization": token.strip()}

    async def renewed(self, refused: dict[str, str]) -> dict[str, str]:
        """Return headers in place of those that the API server has refused; raises `SandboxError`."""
        async with self._renewing:
            if await self.headers() == refused:
                await self._renew()
            return await self.headers()

    async def _renew(self) -> None:
        if self._failure is not None and time.monotonic() < self._failure[0]:
            raise self._failure[1]
        try:
            with _explained():
                found = await _loaded()
                if found.cert_file:
                    self.client.rest_client.ssl_context.load_cert_chain(found.cert_file, keyfile=found.key_file)
        except SandboxError as error:
            self._failure = (time.monotonic() + _AGAIN_SECONDS, error)
            raise
        self._configuration.api_key = found.api_key

    async def close(self) -> None:
        """Release connections."""
        await self.client.close()


async def find_access(refuse: Refusal | None = None) -> Access:
    """Return the way that this process has; raises `SandboxError` (``engine_away``) with the next step.

    ``refuse`` is awaited with every answer's head and raises what a refusal is to become.
    """
    with _explained():
        configuration = await _loaded()
        configuration.connection_pool_maxsize = 0
        """Every sandbox has a stream of its own; the library's 100 would be all that a worker can hold."""
        configuration.client_session_kwargs = {
            "trust_env": False, "proxy": configuration.proxy, "raise_for_status": refuse
        }  # fmt: skip
        return Access(configuration)


@contextlib.contextmanager
def _explained() -> Generator[None]:
    """Say why there is no way, without what a kubeconfig holds; the library's files of keys are read by the end."""
    try:
        yield
    except (ConfigException, ClientError, OSError, TypeError, ValueError, AttributeError, KeyError) as error:
        raise _no_way(f"{type(error).__name__}: {_without_items(str(error))}") from None
    except yaml.YAMLError:
        raise _no_way("its kubeconfig is not YAML") from None
    finally:
        kube_config._cleanup_temp_files()  # pyright: ignore[reportPrivateUsage]


def _no_way(cause: str) -> SandboxError:
    return SandboxError(
        f"no way to a Kubernetes API server: {cause}; set KUBECONFIG to a file whose current context is a cluster, "
        "or run in a pod with a service account",
        code="engine_away",
    )


async def _loaded() -> Configuration:
    configuration, named = Configuration(), os.environ.get("KUBECONFIG")
    if named is None and _has_account():
        load_incluster_config(configuration)
        return configuration
    file = named or "~/.kube/config"
    try:
        async with asyncio.timeout(_HELPER_SECONDS):
            await load_kube_config(file, client_configuration=configuration, persist_config=False)
    except TimeoutError:
        raise ConfigException(f"the program that gives its user's token ran for {_HELPER_SECONDS} s") from None
    if configuration.host.startswith("https") and not (configuration.api_key or configuration.cert_file):
        raise ConfigException("its user has no token and no certificate, or the program that gives them failed")
    return configuration


def _has_account() -> bool:
    return _ACCOUNT_TOKEN.exists()


def _without_items(text: str) -> str:
    """Cut off the entry that the library quotes, whole and with its secrets, as ``PATH/{ENTRY}``."""
    return text.split("{", 1)[0].rstrip("/")


class _WithoutItems(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = _without_items(record.getMessage()), ()
        return True


logging.getLogger(kube_config.__name__).addFilter(_WithoutItems())
