"""/v1/environments: what sessions' sandboxes are made from."""

from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from controlplane.api.exchange import CurrentExchange, json_response, reads
from controlplane.api.pages import DEFAULT_LIMIT, LimitParam, PageParam, cut, decode
from controlplane.checks import not_supported, patched_metadata, refused, require_unarchived
from controlplane.definitions import EnvironmentConfig, LimitedNetwork, Packages, UnrestrictedNetwork
from controlplane.store import environments
from controlplane.store.environments import EnvironmentContent, EnvironmentRecord
from controlplane.store.pool import Connection
from controlplane.store.positions import Position
from controlplane.wire.common import Page
from controlplane.wire.environments import (
    CloudRequest,
    ConfigRequest,
    Environment,
    EnvironmentCreate,
    EnvironmentDeleted,
    EnvironmentUpdate,
    LimitedRequest,
    PackagesRequest,
    SelfHostedRequest,
    UnrestrictedRequest,
)

router = APIRouter(prefix="/v1/environments", tags=["environments"])

_OWN_FIELDS = {"image", "cpus", "memory_mb", "workspace_mb", "pids", "lifetime_seconds", "provider"}


@router.post("", response_model=Environment)
async def create_environment(
    exchange: CurrentExchange, wanted: EnvironmentCreate = reads(EnvironmentCreate)
) -> Response:
    """Make an environment."""
    _check_scope(wanted.scope)
    content = EnvironmentContent(
        name=wanted.name,
        description=wanted.description,
        metadata=wanted.metadata or {},
        config=_merged(EnvironmentConfig(), wanted.config),
    )

    async def effect(connection: Connection) -> Environment:
        return _wire(await environments.create(connection, exchange.workspace_id, content=content))

    return await exchange.once(effect)


@router.get("", response_model=Page[Environment])
async def list_environments(
    exchange: CurrentExchange,
    limit: LimitParam = DEFAULT_LIMIT,
    page: PageParam = None,
    include_archived: bool = False,
) -> Response:
    """List environments, newest first."""
    beyond = decode(page, "environments").position()
    async with exchange.transaction() as connection:
        found = await environments.listing(
            connection, include_archived=include_archived, beyond=beyond, limit=limit + 1
        )
    shown, following = cut(found, limit, "environments", lambda e: Position(created_at=e.created_at, id=e.id))
    return json_response(Page[Environment](data=[_wire(record) for record in shown], next_page=following))


@router.get("/{environment_id}", response_model=Environment)
async def get_environment(exchange: CurrentExchange, environment_id: str) -> Response:
    """Get an environment."""
    async with exchange.transaction() as connection:
        return json_response(_wire(await environments.get(connection, environment_id)))


@router.post("/{environment_id}", response_model=Environment)
async def update_environment(
    exchange: CurrentExchange, environment_id: str, wanted: EnvironmentUpdate = reads(EnvironmentUpdate)
) -> Response:
    """Change an environment; sandboxes that are up stay as they are."""
    _check_scope(wanted.scope)

    async def effect(connection: Connection) -> Environment:
        before = await environments.lock(connection, environment_id)
        require_unarchived("environment", environment_id, before.archived_at)
        keeps_description = "description" not in wanted.model_fields_set
        patch = {key: value or None for key, value in (wanted.metadata or {}).items()}
        content = EnvironmentContent(
            name=wanted.name or before.name,
            description=before.description if keeps_description else wanted.description,
            metadata=patched_metadata(before.metadata, patch),
            config=_merged(before.config, wanted.config),
        )
        return _wire(await environments.replace(connection, environment_id, content))

    return await exchange.once(effect)


@router.delete("/{environment_id}", response_model=EnvironmentDeleted)
async def delete_environment(exchange: CurrentExchange, environment_id: str) -> Response:
    """Delete an environment that no session refers to."""
    async with exchange.transaction() as connection:
        await environments.delete(connection, environment_id)
    return json_response(EnvironmentDeleted(id=environment_id))


@router.post("/{environment_id}/archive", response_model=Environment)
async def archive_environment(exchange: CurrentExchange, environment_id: str) -> Response:
    """Keep new sessions from using an environment; those that do go on."""

    async def effect(connection: Connection) -> Environment:
        return _wire(await environments.archive(connection, environment_id))

    return await exchange.once(effect)


def _check_scope(scope: str | None) -> None:
    if scope == "account":
        raise not_supported(
            "scope", "environments of one account are", next_step="omit the field, or set it to 'organization'"
        )


def _merged(before: EnvironmentConfig, wanted: ConfigRequest | None) -> EnvironmentConfig:
    if wanted is None:
        return before
    if isinstance(wanted, SelfHostedRequest):
        raise not_supported(
            "config.type", "self-hosted environments are", next_step="use a config of the type 'cloud'"
        )
    changes: dict[str, Any] = {}
    if wanted.networking is not None:
        changes["networking"] = _networking(before, wanted.networking)
    if wanted.packages is not None:
        changes["packages"] = _packages(before.packages, wanted.packages)
    merged = before.model_copy(update=changes | _own_fields(wanted))
    _check_packages(merged)
    return merged


def _own_fields(wanted: CloudRequest) -> dict[str, Any]:
    own = wanted.model_fields_set & _OWN_FIELDS
    return {name: getattr(wanted, name) or EnvironmentConfig.model_fields[name].default for name in own}


def _networking(
    before: EnvironmentConfig, wanted: UnrestrictedRequest | LimitedRequest
) -> UnrestrictedNetwork | LimitedNetwork:
    if isinstance(wanted, UnrestrictedRequest):
        return UnrestrictedNetwork(type="unrestricted")
    kept = (
        before.networking
        if isinstance(before.networking, LimitedNetwork)
        else LimitedNetwork(type="limited", allowed_hosts=[], allow_mcp_servers=False, allow_package_managers=False)
    )
    given = wanted.model_dump(exclude_none=True)
    return kept.model_copy(update=given)


def _packages(before: Packages, wanted: PackagesRequest) -> Packages:
    return before.model_copy(update=wanted.model_dump(exclude_none=True))


def _check_packages(config: EnvironmentConfig) -> None:
    network = config.networking
    wants = any(getattr(config.packages, name) for name in ("apt", "cargo", "gem", "go", "npm", "pip"))
    if wants and isinstance(network, LimitedNetwork) and not network.allow_package_managers:
        raise refused(
            "config.packages",
            "limited networking keeps packages from being installed",
            next_step="set config.networking.allow_package_managers to true",
        )


def _wire(record: EnvironmentRecord) -> Environment:
    return Environment(**dict(record))
