"""Vaults and their credentials on the wire. A secret goes in and never comes out."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field, SecretStr

from controlplane.vault.hosts import bound_host
from controlplane.vault.values import (
    canonical_method,
    check_name,
    check_parameter,
    check_path_prefix,
    check_secret,
)
from controlplane.wire.common import Answer, Metadata, MetadataPatch, Request

MAX_HOSTS = 16

DisplayName = Annotated[str, Field(min_length=1, max_length=255)]


def _checked(secret: SecretStr) -> SecretStr:
    check_secret(secret.get_secret_value())
    return secret


SecretName = Annotated[str, AfterValidator(check_name)]
SecretValue = Annotated[SecretStr, AfterValidator(_checked)]
Host = Annotated[str, Field(min_length=1, max_length=255), AfterValidator(bound_host)]
Hosts = Annotated[list[Host], Field(min_length=1, max_length=MAX_HOSTS)]
Method = Annotated[str, Field(min_length=1, max_length=32), AfterValidator(canonical_method)]
Methods = Annotated[list[Method], Field(min_length=1, max_length=16)]
PathPrefix = Annotated[str, Field(min_length=1, max_length=512), AfterValidator(check_path_prefix)]
PathPrefixes = Annotated[list[PathPrefix], Field(min_length=1, max_length=64)]
QueryParameter = Annotated[str, AfterValidator(check_parameter)]

_METHODS_TEXT = "The only HTTP methods that may carry the secret; any where omitted."
_PATHS_TEXT = "The only paths, by their first segments, that the secret may go to; any where omitted."
_PARAMETER_TEXT = "A query parameter in which the placeholder is replaced too."


class VaultCreate(Request):
    """A new vault."""

    display_name: DisplayName
    metadata: Metadata | None = None


class VaultUpdate(Request):
    """What changes; an omitted field keeps its value. A metadata value of null removes its key."""

    display_name: DisplayName | None = None
    metadata: MetadataPatch | None = None


class Vault(Answer):
    """A vault."""

    type: Literal["vault"] = "vault"
    id: str
    display_name: str
    metadata: dict[str, str]
    created_at: datetime
    updated_at: datetime
    archived_at: datetime | None


class VaultDeleted(Answer):
    """The vault is gone, and with it the key that its secrets were sealed with."""

    type: Literal["vault_deleted"] = "vault_deleted"
    id: str


class VaultsRewrapped(Answer):
    """How many keys are now under the newest master key, and how many have a master key that is not present."""

    type: Literal["vaults_rewrapped"] = "vaults_rewrapped"
    master_key_id: str
    rewrapped: int
    unreadable: int


class LimitedRequest(Request):
    """The only hosts that the secret goes to, over HTTPS on port 443; ``*.`` in front stands for one label."""

    type: Literal["limited"]
    allowed_hosts: Hosts


class UnboundRequest(Request):
    """Any host: refused, because whoever steers the agent could have the secret sent to a host of their own."""

    type: Literal["unrestricted"]


NetworkingRequest = Annotated[LimitedRequest | UnboundRequest, Field(discriminator="type")]


class LocationRequest(Request):
    """Where in a request the placeholder is replaced; an omitted place is none."""

    header: bool = False
    body: bool = False


class LocationUpdate(Request):
    """Where in a request the placeholder is replaced; an omitted place stays as it is."""

    header: bool | None = None
    body: bool | None = None


class EnvironmentVariableCreate(Request):
    """A secret that an environment variable of the sandbox stands for."""

    type: Literal["environment_variable"]
    secret_name: SecretName
    secret_value: SecretValue
    networking: NetworkingRequest
    injection_location: LocationRequest = Field(
        default=LocationRequest(header=True), description="Headers only where omitted."
    )
    methods: Methods | None = Field(default=None, description=_METHODS_TEXT)
    path_prefixes: PathPrefixes | None = Field(default=None, description=_PATHS_TEXT)
    query_parameter: QueryParameter | None = Field(default=None, description=_PARAMETER_TEXT)


class EnvironmentVariableUpdate(Request):
    """What changes; ``networking`` and the three below replace what was there, and null removes the latter."""

    type: Literal["environment_variable"]
    secret_name: str | None = Field(default=None, description="Cannot change; accepted if it is the same.")
    secret_value: SecretValue | None = None
    networking: NetworkingRequest | None = None
    injection_location: LocationUpdate = LocationUpdate()
    methods: Methods | None = Field(default=None, description=_METHODS_TEXT)
    path_prefixes: PathPrefixes | None = Field(default=None, description=_PATHS_TEXT)
    query_parameter: QueryParameter | None = Field(default=None, description=_PARAMETER_TEXT)


class McpAuth(Request):
    """A token for an MCP server; not in this version, which connects to none."""

    model_config = ConfigDict(extra="ignore")
    type: Literal["mcp_oauth", "static_bearer"]


class CredentialCreate(Request):
    """A new credential."""

    auth: Annotated[EnvironmentVariableCreate | McpAuth, Field(discriminator="type")]
    display_name: DisplayName | None = None
    metadata: Metadata | None = None


class CredentialUpdate(Request):
    """What changes; an omitted field keeps its value. A metadata value of null removes its key."""

    auth: Annotated[EnvironmentVariableUpdate | McpAuth, Field(discriminator="type")] | None = None
    display_name: DisplayName | None = None
    metadata: MetadataPatch | None = None


class Limited(Answer):
    """The only hosts that the secret goes to."""

    type: Literal["limited"] = "limited"
    allowed_hosts: list[str]


class Location(Answer):
    """Where in a request the placeholder is replaced."""

    header: bool
    body: bool


class EnvironmentVariable(Answer):
    """A secret that an environment variable of the sandbox stands for. Its value is never shown."""

    type: Literal["environment_variable"] = "environment_variable"
    secret_name: str
    networking: Limited
    injection_location: Location
    methods: list[str] | None
    path_prefixes: list[str] | None
    query_parameter: str | None


class Credential(Answer):
    """A credential, without its secret."""

    type: Literal["vault_credential"] = "vault_credential"
    id: str
    vault_id: str
    display_name: str | None
    metadata: dict[str, str]
    auth: EnvironmentVariable
    created_at: datetime
    updated_at: datetime
    archived_at: datetime | None


class CredentialDeleted(Answer):
    """The credential is gone, and its secret with it."""

    type: Literal["vault_credential_deleted"] = "vault_credential_deleted"
    id: str
