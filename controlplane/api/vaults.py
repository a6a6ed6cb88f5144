"""/v1/vaults: secrets that sessions may use and never see."""

from fastapi import APIRouter
from starlette.responses import Response

from controlplane.api.exchange import CurrentExchange, json_response, reads
from controlplane.api.pages import DEFAULT_LIMIT, LimitParam, PageParam, cut, decode
from controlplane.checks import patched_metadata, require_unarchived
from controlplane.store import vaults
from controlplane.store.pool import Connection
from controlplane.store.positions import Position
from controlplane.store.rewrap import rewrap
from controlplane.store.vaults import VaultContent, VaultRecord
from controlplane.wire.common import Page
from controlplane.wire.vaults import Vault, VaultCreate, VaultDeleted, VaultsRewrapped, VaultUpdate

router = APIRouter(prefix="/v1/vaults", tags=["vaults"])


@router.post("", response_model=Vault)
async def create_vault(exchange: CurrentExchange, wanted: VaultCreate = reads(VaultCreate)) -> Response:
    """Make a vault."""
    content = VaultContent(display_name=wanted.display_name, metadata=wanted.metadata or {})

    async def effect(connection: Connection) -> Vault:
        return _wire(
            await vaults.create(connection, exchange.workspace_id, content=content, keyring=exchange.parts.keyring)
        )

    return await exchange.once(effect)


@router.get("", response_model=Page[Vault])
async def list_vaults(
    exchange: CurrentExchange,
    limit: LimitParam = DEFAULT_LIMIT,
    page: PageParam = None,
    include_archived: bool = False,
) -> Response:
    """List vaults, newest first."""
    beyond = decode(page, "vaults").position()
    async with exchange.transaction() as connection:
        found = await vaults.listing(connection, include_archived=include_archived, beyond=beyond, limit=limit + 1)
    shown, following = cut(found, limit, "vaults", lambda v: Position(created_at=v.created_at, id=v.id))
    return json_response(Page[Vault](data=[_wire(record) for record in shown], next_page=following))


@router.post("/rewrap", response_model=VaultsRewrapped)
async def rewrap_vaults(exchange: CurrentExchange) -> Response:
    """Put the key of every vault under the newest master key, so that older master keys can be taken away."""
    done = await rewrap(exchange.parts.database, exchange.parts.keyring)
    return json_response(VaultsRewrapped(**done.model_dump()))


@router.get("/{vault_id}", response_model=Vault)
async def get_vault(exchange: CurrentExchange, vault_id: str) -> Response:
    """Get a vault."""
    async with exchange.transaction() as connection:
        return json_response(_wire(await vaults.get(connection, vault_id)))


@router.post("/{vault_id}", response_model=Vault)
async def update_vault(
    exchange: CurrentExchange, vault_id: str, wanted: VaultUpdate = reads(VaultUpdate)
) -> Response:
    """Change a vault's name or metadata."""

    async def effect(connection: Connection) -> Vault:
        before = await vaults.lock(connection, vault_id)
        require_unarchived("vault", vault_id, before.archived_at)
        content = VaultContent(
            display_name=wanted.display_name or before.display_name,
            metadata=patched_metadata(before.metadata, wanted.metadata),
        )
        return _wire(await vaults.replace(connection, vault_id, content))

    return await exchange.once(effect)


@router.delete("/{vault_id}", response_model=VaultDeleted)
async def delete_vault(exchange: CurrentExchange, vault_id: str) -> Response:
    """Delete a vault, its key and its credentials for good; sessions lose them with their next request."""
    async with exchange.transaction() as connection:
        await vaults.delete(connection, vault_id)
    return json_response(VaultDeleted(id=vault_id))


@router.post("/{vault_id}/archive", response_model=Vault)
async def archive_vault(exchange: CurrentExchange, vault_id: str) -> Response:
    """Archive a vault with its credentials: the secrets are gone for good, the rest is kept."""

    async def effect(connection: Connection) -> Vault:
        return _wire(await vaults.archive(connection, vault_id))

    return await exchange.once(effect)


def _wire(record: VaultRecord) -> Vault:
    return Vault(**dict(record))
