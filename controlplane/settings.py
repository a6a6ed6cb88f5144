"""Every setting, read once in a process's entry point and passed on by constructor."""

import socket
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from controlplane.errors import InvalidRequestError
from harness_adapters.contract import COMPACT_ABOVE_TOKENS, WireFormat
from harness_adapters.installation import default_folder


class ModelProvider(BaseModel):
    """A service that answers model requests; ``models`` are glob patterns of names.

    ``format``: the wire format that it speaks, or a list of them, the preferred one first. ``free``: its models cost
    nothing unless a price is set.
    """

    model_config = ConfigDict(extra="forbid")

    format: WireFormat | Annotated[list[WireFormat], Field(min_length=1)]
    base_url: str
    api_key: SecretStr | None = None
    models: list[str] = Field(min_length=1)
    max_concurrent_requests: int = 64
    free: bool = False

    @property
    def formats(self) -> tuple[WireFormat, ...]:
        """The formats that it speaks, the preferred one first."""
        return (self.format,) if isinstance(self.format, str) else tuple(self.format)


class Settings(BaseSettings):
    """Environment variables ``BULKHEAD_*``; ``bulkhead up`` passes its own choices to its parts the same way."""

    model_config = SettingsConfigDict(env_prefix="BULKHEAD_", extra="ignore")

    data_dir: Path = Path(".bulkhead")
    config_file: Path | None = None
    """A ``bulkhead.toml``; its ``[providers.NAME]`` tables add model providers."""

    host: str = "127.0.0.1"
    port: int = 8400
    api_key: SecretStr | None = None
    """The first API key of the default workspace; made and kept in ``data_dir/api-key`` if not set."""

    database_url: str = ""
    temporal_address: str = "127.0.0.1:7233"
    temporal_namespace: str = "default"
    temporal_tls: bool = False
    """What comes next holds only with TLS (`controlplane/temporal.py`); all of it is read once, at the start."""

    temporal_api_key: SecretStr | None = None
    temporal_client_cert_file: Path | None = None
    """Shown to Temporal, in PEM, with ``temporal_client_key_file``."""

    temporal_client_key_file: Path | None = None
    temporal_server_ca_file: Path | None = None
    """Who may have signed Temporal's certificate, in PEM; the system's authorities if not set."""

    temporal_server_name: str = ""
    """The name in Temporal's certificate, if it is not the address's."""

    gateway_host: str = "127.0.0.1"
    gateway_port: int = 8401
    gateway_address: str = ""
    """Where the other parts find the gateway, as ``host:port``; where it listens if not set."""

    health_host: str = "0.0.0.0"  # noqa: S104 - who asks is outside, and is told nothing but whether this part is well
    health_port: int | None = Field(default=None, ge=0, le=65535)
    """Where a part answers ``/livez`` and ``/readyz`` (`controlplane/health.py`); nowhere if not set."""

    worker_name: str = ""
    """What stays the same when this worker is started again; the host's name if not set."""

    sandbox: Literal["auto", "docker", "namespace", "kubernetes"] = "auto"
    sandbox_idle_seconds: float = 900
    """How long a sandbox stays without use; then what is in it is kept as a checkpoint, and it ends."""

    checkpoint_mb: int = Field(default=256, ge=0)
    """What is kept of a sandbox at most, before compression; what does not fit is named to the model."""

    warm_sandboxes: int = Field(default=1, ge=0, le=100)
    """How many sandboxes are kept ready of each kind that was asked for in the last half hour."""

    approval_expiry_seconds: int = Field(default=7 * 24 * 3600, ge=1, le=10 * 365 * 24 * 3600)
    """How long a call waits for a person where no rule says; then it is denied."""

    compact_above_tokens: int = Field(default=COMPACT_ABOVE_TOKENS, ge=1000)
    """Above it, a summary that the model writes stands for the older part of a conversation."""

    harness_dir: Path | None = None
    """Where `bulkhead harness install` puts programs; beside the Python environment if not set."""

    harness_processes: int = Field(default=8, ge=1, le=1000)
    """Of each harness that is a program of its own, at most; a turn that finds none free waits."""

    harness_idle_seconds: float = Field(default=300, gt=0)
    """How long such a process, and a session in it, is kept without use."""

    harness_silence_seconds: float = Field(default=60, gt=0)
    """How long such a process may do nothing when it is its turn to; then it is started again."""

    memory_host: str = "127.0.0.1"
    memory_port: int = 8402
    memory_address: str = ""
    """Where the other parts find the memory worker, as ``host:port``; where it listens if not set."""

    embedding_model: str = "wordllama"
    """What memories are found by: ``wordllama`` (embedded), ``minilm`` (an extra), ``none``, or an endpoint's."""

    embedding_url: str = ""
    """An OpenAI-compatible endpoint, such as ``https://api.openai.com/v1``."""

    embedding_api_key: SecretStr | None = None
    model_log_days: int = Field(default=7, ge=0, le=3650)
    """How long the bodies of model requests and their answers are kept; 0: they are not."""

    slack_front_door: str = ""
    """The name or id of the front door that `bulkhead slack` serves; needed where there are several."""

    slack_host: str = "127.0.0.1"
    slack_port: int = Field(default=8403, ge=1, le=65535)
    """Where `bulkhead slack` listens for Slack, at ``/slack/events``, if it does not use Socket Mode."""

    slack_api_url: str = "https://slack.com/api/"
    """Slack's Web API; another one for GovSlack."""

    max_concurrent_turns: int = 100
    max_concurrent_tool_calls: int = 64
    egress_ca_file: Path | None = None
    """Further roots (PEM), such as a company's own, for the hosts that sandboxes reach."""

    egress_hosts: str = ""
    """Where names are dialled, whatever their address: ``git.corp=10.1.2.3:443,api.test=127.0.0.1:8443``."""

    egress_allow_cidrs: str = ""
    """Private ranges that sandboxes may reach all the same, if their environment allows the host: ``10.1.0.0/16``."""

    egress_gate_listen: str = ""
    """Where the egress proxy takes the connections of sandboxes that are pods, as ``address:port``."""

    kubernetes_namespace: str = "bulkhead-sandboxes"
    """Where sandboxes are pods; nothing else should run there."""

    kubernetes_runtime_image: str = ""
    """An image that has Bulkhead's runtime (`bulkhead sandbox runtime`); every pod begins with it."""

    kubernetes_image: str = ""
    """What a sandbox is made of where its environment names no image; the runtime's image if not set."""

    kubernetes_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    kubernetes_pull_secrets: str = ""
    """Names of the secrets that images are pulled with, separated by commas."""

    kubernetes_runtime_class: str = ""
    """A RuntimeClass of the cluster, such as gVisor's."""

    kubernetes_user_namespaces: bool | None = None
    """Whether sandboxes get a user namespace (``hostUsers: false``); not set: where all nodes say that they can."""

    kubernetes_node_selector: str = ""
    """Labels that a node must have for sandboxes to run there: ``key=value``, several separated by commas."""

    kubernetes_key: SecretStr | None = None
    """What a sandbox knows its workers by: 16 characters or more, the same for all of them."""

    kubernetes_gate: str = ""
    """Where pods find the gate of the egress proxies, as ``host:port``; the worker opens one itself if not set."""

    kubernetes_gate_listen: str = ""
    """Where the worker opens gates itself: ``address:first_port``, an address of this host that pods reach."""

    kubernetes_canary: Literal["full", "glance"] = "full"
    """How thoroughly a new pod is seen to reach nothing before its first command."""

    log_format: Literal["auto", "json", "text"] = "auto"

    @property
    def host_name(self) -> str:
        """The name under which this host's workers and sandboxes are found again."""
        return self.worker_name or socket.gethostname()

    @property
    def harness_programs(self) -> Path:
        """Where the harnesses' programs are looked for."""
        return self.harness_dir or default_folder()

    @property
    def egress_socket(self) -> Path:
        """Where the sandbox worker hands ears to the egress proxy of this host."""
        return self.data_dir / "run" / "egress"

    @property
    def memory_url(self) -> str:
        """Where texts are prepared before they are kept."""
        return f"http://{self.memory_address or f'{self.memory_host}:{self.memory_port}'}"

    @property
    def gateway_url(self) -> str:
        """Where the brain asks for model answers."""
        return f"http://{self.gateway_address or f'{self.gateway_host}:{self.gateway_port}'}"


class ProviderSettings(BaseSettings):
    """The two providers that work by their usual variables alone; only the model gateway reads this."""

    model_config = SettingsConfigDict(extra="ignore")

    anthropic_api_key: SecretStr | None = None
    anthropic_base_url: str = "https://api.anthropic.com"
    openai_api_key: SecretStr | None = None
    openai_base_url: str = "https://api.openai.com/v1"


SECRET_VARIABLES = ("ANTHROPIC_API_KEY", "OPENAI_API_KEY")
"""Taken out of the environment of every part but the model gateway."""


def model_providers(settings: Settings, keys: ProviderSettings) -> dict[str, ModelProvider]:
    """Return every configured provider by name; raises `InvalidRequestError` that names the file and the field."""
    found: dict[str, ModelProvider] = {}
    if keys.anthropic_api_key:
        found["anthropic"] = ModelProvider(
            format="anthropic",
            base_url=keys.anthropic_base_url,
            api_key=keys.anthropic_api_key,
            models=["claude-*", "anthropic/*"],
        )
    if keys.openai_api_key:
        found["openai"] = ModelProvider(
            format=["openai", "openai-responses"],
            base_url=keys.openai_base_url,
            api_key=keys.openai_api_key,
            models=["gpt-*", "o[0-9]*", "chatgpt-*", "openai/*"],
        )
    for name, table in _provider_tables(settings.config_file).items():
        try:
            found[name] = ModelProvider.model_validate(table)
        except ValueError as error:
            raise InvalidRequestError(
                f"{settings.config_file}: [providers.{name}]: {error}",
                code="bad_configuration",
                field=f"providers.{name}",
                next_step="correct the file and start again",
            ) from error
    return found


def _provider_tables(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        return tomllib.loads(path.read_text()).get("providers", {})
    except (OSError, ValueError) as error:
        raise InvalidRequestError(
            f"{path}: {error}", code="bad_configuration", next_step="correct the file and start again"
        ) from error
