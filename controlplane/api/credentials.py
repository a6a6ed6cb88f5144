"""/v1/vaults/{id}/credentials: a secret, and the only places where it may go."""

from fastapi import APIRouter
from starlette.responses import Response

from controlplane.api.exchange import CurrentExchange, json_response, reads
from controlplane.api.pages import DEFAULT_LIMIT, LimitParam, PageParam, cut, decode
from controlplane.checks import not_supported, patched_metadata, refused, require_unarchived
from controlplane.store import credentials, vaults
from controlplane.store.credentials import CredentialContent, CredentialRecord
from controlplane.store.pool import Connection
from controlplane.store.positions import Position
from controlplane.wire.common import Page
from controlplane.wire.vaults import (
    Credential,
    CredentialCreate,
    CredentialDeleted,
    CredentialUpdate,
    EnvironmentVariable,
    EnvironmentVariableCreate,
    EnvironmentVariableUpdate,
    Limited,
    Location,
    McpAuth,
    NetworkingRequest,
    UnboundRequest,
)
from sandbox.egress.contract import Binding

router = APIRouter(prefix="/v1/vaults/{vault_id}/credentials", tags=["vaults"])


@router.post("", response_model=Credential)
async def create_credential(
    exchange: CurrentExchange, vault_id: str, wanted: CredentialCreate = reads(CredentialCreate)
) -> Response:
    """Store a secret. No answer ever shows it again."""
    auth = wanted.auth
    if isinstance(auth, McpAuth):
        raise _no_mcp(auth)
    content = CredentialContent(
        display_name=wanted.display_name, metadata=wanted.metadata or {}, binding=_new_binding(auth)
    )

    async def effect(connection: Connection) -> Credential:
        vault = await vaults.lock(connection, vault_id)
        require_unarchived("vault", vault_id, vault.archived_at)
        record = await credentials.create(
            connection,
            vault_id,
            name=auth.secret_name,
            content=content,
            secret=auth.secret_value,
            keyring=exchange.parts.keyring,
        )
        return _wire(record)

    return await exchange.once(effect)


@router.get("", response_model=Page[Credential])
async def list_credentials(
    exchange: CurrentExchange,
    vault_id: str,
    limit: LimitParam = DEFAULT_LIMIT,
    page: PageParam = None,
    include_archived: bool = False,
) -> Response:
    """List a vault's credentials, newest first."""
    beyond = decode(page, "credentials").position()
    async with exchange.transaction() as connection:
        await vaults.get(connection, vault_id)
        found = await credentials.listing(
            connection, vault_id, include_archived=include_archived, beyond=beyond, limit=limit + 1
        )
    shown, following = cut(found, limit, "credentials", lambda c: Position(created_at=c.created_at, id=c.id))
    return json_response(Page[Credential](data=[_wire(record) for record in shown], next_page=following))


@router.get("/{credential_id}", response_model=Credential)
async def get_credential(exchange: CurrentExchange, vault_id: str, credential_id: str) -> Response:
    """Get a credential, without its secret."""
    async with exchange.transaction() as connection:
        return json_response(_wire(await credentials.get(connection, vault_id, credential_id)))


@router.post("/{credential_id}", response_model=Credential)
async def update_credential(
    exchange: CurrentExchange, vault_id: str, credential_id: str, wanted: CredentialUpdate = reads(CredentialUpdate)
) -> Response:
    """Change a credential or give it a new secret; both hold from the next request on that a sandbox makes."""
    auth = wanted.auth
    if isinstance(auth, McpAuth):
        raise _no_mcp(auth)

    async def effect(connection: Connection) -> Credential:
        before = await credentials.lock(connection, vault_id, credential_id)
        require_unarchived("credential", credential_id, before.archived_at)
        if auth is not None and auth.secret_value is not None:
            await credentials.rotate(connection, before, auth.secret_value, keyring=exchange.parts.keyring)
        return _wire(await credentials.replace(connection, before, _changed(before, wanted, auth)))

    return await exchange.once(effect)


@router.delete("/{credential_id}", response_model=CredentialDeleted)
async def delete_credential(exchange: CurrentExchange, vault_id: str, credential_id: str) -> Response:
    """Delete a credential with its secret; sandboxes lose it with their next request."""
    async with exchange.transaction() as connection:
        await credentials.delete(connection, vault_id, credential_id)
    return json_response(CredentialDeleted(id=credential_id))


@router.post("/{credential_id}/archive", response_model=Credential)
async def archive_credential(exchange: CurrentExchange, vault_id: str, credential_id: str) -> Response:
    """Archive a credential: its secret is gone for good and its name is free, the rest is kept."""

    async def effect(connection: Connection) -> Credential:
        return _wire(await credentials.archive(connection, vault_id, credential_id))

    return await exchange.once(effect)


def _new_binding(auth: EnvironmentVariableCreate) -> Binding:
    return _with_a_place(
        Binding(
            hosts=_hosts(auth.networking),
            methods=auth.methods,
            path_prefixes=auth.path_prefixes,
            header=auth.injection_location.header,
            body=auth.injection_location.body,
            query_parameter=auth.query_parameter,
        )
    )


def _changed(
    before: CredentialRecord, wanted: CredentialUpdate, auth: EnvironmentVariableUpdate | None
) -> CredentialContent:
    keeps_name = "display_name" not in wanted.model_fields_set
    return CredentialContent(
        display_name=before.display_name if keeps_name else wanted.display_name,
        metadata=patched_metadata(before.metadata, wanted.metadata),
        binding=_changed_binding(before, auth) if auth else before.binding,
    )


def _changed_binding(before: CredentialRecord, auth: EnvironmentVariableUpdate) -> Binding:
    if auth.secret_name not in (None, before.name):
        raise refused(
            "auth.secret_name",
            f"the name {before.name!r} cannot change",
            code="immutable",
            next_step="archive the credential and make another",
        )
    changes = {
        name: getattr(auth, name)
        for name in ("methods", "path_prefixes", "query_parameter")
        if name in auth.model_fields_set
    }
    if auth.networking is not None:
        changes["hosts"] = _hosts(auth.networking)
    changes |= auth.injection_location.model_dump(exclude_none=True)
    return _with_a_place(before.binding.model_copy(update=changes))


def _with_a_place(binding: Binding) -> Binding:
    if not (binding.header or binding.body or binding.query_parameter):
        raise refused(
            "auth.injection_location",
            "there is no place in a request where the secret could go",
            code="no_injection_location",
            next_step="set header or body to true, or name a query_parameter",
        )
    return binding


def _hosts(networking: NetworkingRequest) -> list[str]:
    if isinstance(networking, UnboundRequest):
        raise refused(
            "auth.networking.type",
            "a secret that may go to any host can be sent to a host of whoever steers the agent",
            code="credential_not_bound",
            next_step="use the type 'limited' and name the hosts",
        )
    return [*dict.fromkeys(networking.allowed_hosts)]


def _no_mcp(auth: McpAuth) -> Exception:
    return not_supported(
        "auth.type",
        f"{auth.type!r} credentials are for MCP servers, which sessions do not connect to; they are",
        next_step="use the type 'environment_variable', bound to the server's host",
    )


def _wire(record: CredentialRecord) -> Credential:
    binding = record.binding
    return Credential(
        id=record.id,
        vault_id=record.vault_id,
        display_name=record.display_name,
        metadata=record.metadata,
        auth=EnvironmentVariable(
            secret_name=record.name,
            networking=Limited(allowed_hosts=binding.hosts),
            injection_location=Location(header=binding.header, body=binding.body),
            methods=binding.methods,
            path_prefixes=binding.path_prefixes,
            query_parameter=binding.query_parameter,
        ),
        created_at=record.created_at,
        updated_at=record.updated_at,
        archived_at=record.archived_at,
    )
