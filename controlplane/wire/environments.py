"""Environments on the wire."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from controlplane.definitions import EnvironmentConfig
from controlplane.wire.common import Answer, Metadata, MetadataPatch, NonEmpty, Request

Name = Annotated[str, Field(min_length=1, max_length=256)]


def _must_be_name(host: str) -> str:
    """An address is never reached by its number, and a wildcard for all of a top level matches nothing."""
    if host.rpartition(".")[2].isdigit():
        raise ValueError("a host name is wanted; sandboxes reach no address by its number")
    if host.startswith("*.") and "." not in host[2:]:
        raise ValueError("a wildcard stands for names below a domain, such as '*.example.com'")
    return host


Host = Annotated[
    str,
    Field(max_length=253, pattern=r"^(\*\.)?[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9-]+)*$"),
    AfterValidator(_must_be_name),
]
PackageNames = Annotated[list[Annotated[NonEmpty, Field(max_length=256)]], Field(max_length=256)]


class UnrestrictedRequest(Request):
    """Any host."""

    type: Literal["unrestricted"]


class LimitedRequest(Request):
    """Only the hosts named; on update an omitted field keeps its value."""

    type: Literal["limited"]
    allowed_hosts: Annotated[list[Host], Field(max_length=1000)] | None = None
    allow_mcp_servers: bool | None = None
    allow_package_managers: bool | None = None


class PackagesRequest(Request):
    """Packages to install, by package manager."""

    type: Literal["packages"] | None = None
    apt: PackageNames | None = None
    cargo: PackageNames | None = None
    gem: PackageNames | None = None
    go: PackageNames | None = None
    npm: PackageNames | None = None
    pip: PackageNames | None = None


class CloudRequest(Request):
    """A sandbox that Bulkhead runs; on update an omitted field keeps its value."""

    type: Literal["cloud"]
    networking: Annotated[UnrestrictedRequest | LimitedRequest, Field(discriminator="type")] | None = None
    packages: PackagesRequest | None = None
    image: Annotated[str, Field(min_length=1, max_length=512, pattern=r"^[A-Za-z0-9][^\s]*$")] | None = Field(
        default=None, description="Container image; the provider's default where none is given."
    )
    cpus: Annotated[float, Field(gt=0, le=256, allow_inf_nan=False)] | None = Field(
        default=None, description="CPU limit of the sandbox, in cores."
    )
    memory_mb: Annotated[int, Field(ge=16, le=1_048_576)] | None = Field(
        default=None,
        description="What commands may use, in MiB. Files lie in memory too and have their own limits (`workspace_mb`"
        " for /workspace and for /mnt/session, 256 for /tmp, /dev/shm and the home folder each); what they leave free"
        " of those, commands may use as well.",
    )
    workspace_mb: Annotated[int, Field(ge=16, le=1_048_576)] | None = Field(
        default=None, description="What /workspace may hold, in MiB."
    )
    pids: Annotated[int, Field(ge=16, le=65_536)] | None = Field(
        default=None, description="How many processes and threads the sandbox may have at once."
    )
    lifetime_seconds: Annotated[int, Field(ge=300, le=604_800)] | None = Field(
        default=None, description="How long the sandbox outlives its last command, should nobody be there to end it."
    )
    provider: Literal["auto", "docker", "namespace", "kubernetes"] | None = Field(
        default=None, description="What isolates the sandbox."
    )


class SelfHostedRequest(Request):
    """A sandbox that the client runs; not in this version."""

    type: Literal["self_hosted"]


ConfigRequest = Annotated[CloudRequest | SelfHostedRequest, Field(discriminator="type")]
Scope = Literal["organization", "account"]


class EnvironmentCreate(Request):
    """A new environment."""

    name: Name
    config: ConfigRequest | None = None
    description: Annotated[str, Field(max_length=4096)] | None = None
    metadata: Metadata | None = None
    scope: Scope | None = None


class EnvironmentUpdate(Request):
    """What changes; an omitted field keeps its value. A metadata value of null or "" removes its key."""

    name: Name | None = None
    config: ConfigRequest | None = None
    description: Annotated[str, Field(max_length=4096)] | None = None
    metadata: MetadataPatch | None = None
    scope: Scope | None = None


class Environment(Answer):
    """An environment."""

    type: Literal["environment"] = "environment"
    id: str
    name: str
    description: str | None
    metadata: dict[str, str]
    config: EnvironmentConfig
    scope: Literal["organization"] = "organization"
    created_at: datetime
    updated_at: datetime
    archived_at: datetime | None


class EnvironmentDeleted(Answer):
    """The environment is gone."""

    type: Literal["environment_deleted"] = "environment_deleted"
    id: str
