"""Vaults and credentials through the public SDK, and what they refuse."""

import asyncio
import hashlib
import json
import uuid
from typing import Any

import httpx
import pytest
from anthropic import AsyncAnthropic, BadRequestError, ConflictError, NotFoundError
from psycopg import sql

from .conftest import Api

SECRET = "ghp_the-canary-of-the-vault"


def auth(**fields: Any) -> dict[str, Any]:
    networking = {"type": "limited", "allowed_hosts": ["api.github.com"]}
    return {
        "type": "environment_variable",
        "secret_name": "GITHUB_TOKEN",
        "secret_value": SECRET,
        "networking": networking,
        **fields,
    }


def hosts(*names: str) -> dict[str, Any]:
    return {"networking": {"type": "limited", "allowed_hosts": list(names)}}


@pytest.fixture
async def vault(client: AsyncAnthropic) -> Any:
    """A fresh vault."""
    return await client.beta.vaults.create(display_name="Alice")


@pytest.fixture
async def credential(client: AsyncAnthropic, vault: Any) -> Any:
    """A fresh credential."""
    return await client.beta.vaults.credentials.create(vault.id, auth=auth())


async def test_a_vault_is_made_changed_and_deleted(client: AsyncAnthropic):
    vaults = client.beta.vaults
    made = await vaults.create(display_name="Alice", metadata={"user": "1", "drop": "x"})
    assert made.id.startswith("vlt_")
    assert (made.type, made.display_name, made.archived_at) == ("vault", "Alice", None)
    updated = await vaults.update(made.id, display_name="Bob", metadata={"user": "2", "drop": None})
    assert (updated.display_name, updated.metadata) == ("Bob", {"user": "2"})
    assert await vaults.retrieve(made.id) == updated
    assert (await vaults.update(made.id, metadata={})).display_name == "Bob"
    deleted = await vaults.delete(made.id)
    assert (deleted.id, deleted.type) == (made.id, "vault_deleted")
    with pytest.raises(NotFoundError) as caught:
        await vaults.retrieve(made.id)
    assert caught.value.error_code == "vault_not_found"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"display_name": ""}, "display_name"),
        ({"display_name": "x" * 256}, "display_name"),
        ({"display_name": "x", "metadata": {f"k{n}": "v" for n in range(17)}}, "metadata"),
    ],
)
async def test_what_a_vault_cannot_be_is_refused_with_its_field(
    client: AsyncAnthropic, fields: dict[str, Any], field: str
):
    with pytest.raises(BadRequestError) as caught:
        await client.beta.vaults.create(**fields)
    assert caught.value.body["error"]["field"] == field


async def test_listings_page_and_hide_what_is_archived(client: AsyncAnthropic, vault: Any):
    made = [await client.beta.vaults.create(display_name=f"listed-{n}") for n in range(3)]
    await client.beta.vaults.archive(made[1].id)
    ids = [each.id async for each in client.beta.vaults.list(limit=1)]
    assert ids.index(made[2].id) < ids.index(made[0].id)
    assert made[1].id not in ids
    assert made[1].id in [each.id async for each in client.beta.vaults.list(include_archived=True)]
    credentials = client.beta.vaults.credentials
    stored = [await credentials.create(vault.id, auth=auth(secret_name=f"TOKEN_{n}")) for n in range(3)]
    await credentials.archive(stored[1].id, vault_id=vault.id)
    assert [each.id async for each in credentials.list(vault.id, limit=1)] == [stored[2].id, stored[0].id]
    assert len([each async for each in credentials.list(vault.id, include_archived=True)]) == 3


async def test_a_credential_shows_everything_but_its_secret(client: AsyncAnthropic, vault: Any):
    made = await client.beta.vaults.credentials.create(
        vault.id, auth=auth(**hosts("API.GitHub.com", "bücher.example", "*.corp.example")), display_name="d"
    )
    assert made.id.startswith("vcrd_")
    assert (made.type, made.vault_id, made.display_name) == ("vault_credential", vault.id, "d")
    assert (made.auth.type, made.auth.secret_name) == ("environment_variable", "GITHUB_TOKEN")
    assert made.auth.networking.allowed_hosts == ["api.github.com", "xn--bcher-kva.example", "*.corp.example"]
    assert (made.auth.injection_location.header, made.auth.injection_location.body) == (True, False)
    shown = await client.beta.vaults.credentials.retrieve(made.id, vault_id=vault.id)
    assert shown == made
    assert SECRET not in shown.model_dump_json() + made.model_dump_json()


async def test_our_own_limits_are_kept_beside_the_wires(http: httpx.AsyncClient, vault: Any):
    own = {"methods": ["get", "POST"], "path_prefixes": ["/repos/acme"], "query_parameter": "key"}
    answer = await http.post(f"/v1/vaults/{vault.id}/credentials", json={"auth": auth(**own)})
    assert answer.status_code == 200, answer.text
    kept = answer.json()["auth"]
    assert {name: kept[name] for name in own} == {**own, "methods": ["GET", "POST"]}
    path = f"/v1/vaults/{vault.id}/credentials/{answer.json()['id']}"
    change = {"type": "environment_variable", "methods": None, "query_parameter": None}
    kept = (await http.post(path, json={"auth": change})).json()["auth"]
    assert (kept["methods"], kept["path_prefixes"], kept["query_parameter"]) == (None, ["/repos/acme"], None)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"networking": {"type": "unrestricted"}}, "auth.networking.type"),
        ({"networking": {"type": "limited"}}, "auth.networking.allowed_hosts"),
        (hosts(), "auth.networking.allowed_hosts"),
        (hosts(*[f"h{n}.example.com" for n in range(17)]), "auth.networking.allowed_hosts"),
        (hosts("a.example.com", "*"), "auth.networking.allowed_hosts.1"),
        (hosts("*.com"), "auth.networking.allowed_hosts.0"),
        (hosts("*.co.uk"), "auth.networking.allowed_hosts.0"),
        (hosts("https://a.example.com"), "auth.networking.allowed_hosts.0"),
        (hosts("a.example.com:443"), "auth.networking.allowed_hosts.0"),
        (hosts("a.example.com/x"), "auth.networking.allowed_hosts.0"),
        (hosts("me@a.example.com"), "auth.networking.allowed_hosts.0"),
        (hosts("a.example.com."), "auth.networking.allowed_hosts.0"),
        (hosts("127.0.0.1"), "auth.networking.allowed_hosts.0"),
        (hosts("8.8.8.8"), "auth.networking.allowed_hosts.0"),
        (hosts("2130706433"), "auth.networking.allowed_hosts.0"),
        (hosts("[::1]"), "auth.networking.allowed_hosts.0"),
        ({"secret_value": ""}, "auth.secret_value"),
        ({"secret_value": "1234567"}, "auth.secret_value"),
        ({"secret_value": "x" * 65537}, "auth.secret_value"),
        ({"secret_value": SECRET + "\r\nX-Evil: 1"}, "auth.secret_value"),
        ({"secret_value": SECRET + "\x00"}, "auth.secret_value"),
        ({"secret_value": 12345678}, "auth.secret_value"),
        ({"secret_value": None}, "auth.secret_value"),
        ({"secret_name": "PATH"}, "auth.secret_name"),
        ({"secret_name": "LD_PRELOAD"}, "auth.secret_name"),
        ({"secret_name": "https_proxy"}, "auth.secret_name"),
        ({"secret_name": "BULKHEAD_X"}, "auth.secret_name"),
        ({"secret_name": "not a name"}, "auth.secret_name"),
        ({"injection_location": {}}, "auth.injection_location"),
        ({"injection_location": {"header": False, "body": False}}, "auth.injection_location"),
        ({"injection_location": None}, "auth.injection_location"),
        ({"methods": []}, "auth.methods"),
        ({"methods": ["TRACE"]}, "auth.methods.0"),
        ({"path_prefixes": []}, "auth.path_prefixes"),
        ({"path_prefixes": ["/a/../b"]}, "auth.path_prefixes.0"),
        ({"query_parameter": "a=b"}, "auth.query_parameter"),
        ({"surprise": SECRET}, "auth.surprise"),
    ],
)
async def test_what_a_credential_cannot_be_is_refused_with_its_field_and_without_its_secret(
    http: httpx.AsyncClient, vault: Any, fields: dict[str, Any], field: str
):
    answer = await http.post(f"/v1/vaults/{vault.id}/credentials", json={"auth": auth(**fields)})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["field"] == field
    assert SECRET not in answer.text


@pytest.mark.parametrize(
    "kind",
    [
        {"type": "static_bearer", "token": SECRET, "mcp_server_url": "https://mcp.example.com"},
        {"type": "mcp_oauth", "access_token": SECRET, "mcp_server_url": "https://mcp.example.com"},
    ],
)
async def test_credentials_that_nothing_would_use_are_refused_rather_than_kept(
    client: AsyncAnthropic, vault: Any, kind: Any
):
    with pytest.raises(BadRequestError) as caught:
        await client.beta.vaults.credentials.create(vault.id, auth=kind)
    assert (caught.value.error_code, caught.value.body["error"]["field"]) == ("not_supported", "auth.type")
    assert SECRET not in str(caught.value.body)


async def test_an_update_changes_what_it_names(client: AsyncAnthropic, vault: Any, credential: Any):
    credentials = client.beta.vaults.credentials
    kept = await credentials.update(credential.id, vault_id=vault.id, display_name="d", metadata={"a": "1"})
    assert (kept.auth, kept.display_name, kept.metadata) == (credential.auth, "d", {"a": "1"})
    change: Any = {"type": "environment_variable", "injection_location": {"body": True}, **hosts("b.example.com")}
    changed = await credentials.update(credential.id, vault_id=vault.id, auth=change)
    assert changed.auth.networking.allowed_hosts == ["b.example.com"]
    assert (changed.auth.injection_location.header, changed.auth.injection_location.body) == (True, True)
    assert (changed.display_name, changed.updated_at > credential.updated_at) == ("d", True)
    same: Any = {"type": "environment_variable", "secret_name": "GITHUB_TOKEN", "secret_value": "another-secret"}
    assert (await credentials.update(credential.id, vault_id=vault.id, auth=same)).auth == changed.auth


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"secret_name": "OTHER"}, "auth.secret_name"),
        ({"secret_value": "line\nbreak-in-it"}, "auth.secret_value"),
        ({"networking": {"type": "unrestricted"}}, "auth.networking.type"),
        (hosts("*"), "auth.networking.allowed_hosts.0"),
        ({"injection_location": {"header": False}}, "auth.injection_location"),
        ({"type": "static_bearer"}, "auth.type"),
    ],
)
async def test_an_update_is_held_to_the_same_rules(
    http: httpx.AsyncClient, vault: Any, credential: Any, change: dict[str, Any], field: str
):
    answer = await http.post(
        f"/v1/vaults/{vault.id}/credentials/{credential.id}",
        json={"auth": {"type": "environment_variable", **change}},
    )
    assert (answer.status_code, answer.json()["error"]["field"]) == (400, field)


async def test_a_name_is_free_again_when_its_credential_is_archived(
    client: AsyncAnthropic, vault: Any, credential: Any
):
    credentials = client.beta.vaults.credentials
    with pytest.raises(ConflictError) as caught:
        await credentials.create(vault.id, auth=auth())
    assert caught.value.error_code == "credential_exists"
    archived = await credentials.archive(credential.id, vault_id=vault.id)
    assert archived.archived_at is not None
    assert await credentials.archive(credential.id, vault_id=vault.id) == archived
    assert (await credentials.create(vault.id, auth=auth())).id != credential.id
    with pytest.raises(BadRequestError) as refused:
        await credentials.update(credential.id, vault_id=vault.id, display_name="x")
    assert refused.value.error_code == "credential_archived"


async def test_a_vault_holds_twenty_credentials(client: AsyncAnthropic, vault: Any):
    credentials = client.beta.vaults.credentials
    await asyncio.gather(*(credentials.create(vault.id, auth=auth(secret_name=f"T_{n}")) for n in range(20)))
    with pytest.raises(ConflictError) as caught:
        await credentials.create(vault.id, auth=auth(secret_name="ONE_MORE"))
    assert caught.value.error_code == "vault_full"


async def test_an_archived_vault_has_no_secrets_left_and_takes_none(
    client: AsyncAnthropic, api: Api, vault: Any, credential: Any
):
    archived = await client.beta.vaults.archive(vault.id)
    assert await client.beta.vaults.archive(vault.id) == archived
    shown = await client.beta.vaults.credentials.retrieve(credential.id, vault_id=vault.id)
    assert shown.archived_at is not None
    for refused in (
        client.beta.vaults.update(vault.id, display_name="x"),
        client.beta.vaults.credentials.create(vault.id, auth=auth(secret_name="OTHER")),
    ):
        with pytest.raises(BadRequestError) as caught:
            await refused
        assert caught.value.error_code == "vault_archived"
    async with api.database.transaction("*") as connection:
        left = await connection.execute(
            "SELECT v.wrapped_key, c.sealed FROM vaults v JOIN credentials c ON c.vault_id = v.id WHERE v.id = %s",
            (vault.id,),
        )
        assert [*await left.fetchall()] == [{"wrapped_key": None, "sealed": None}]


@pytest.mark.parametrize("verb", ["retrieve", "archive", "update", "delete"])
async def test_what_is_unknown_is_not_found(client: AsyncAnthropic, vault: Any, credential: Any, verb: str):
    other = await client.beta.vaults.create(display_name="other")
    with pytest.raises(NotFoundError) as caught:
        await getattr(client.beta.vaults, verb)("vlt_00000000000000000000000000")
    assert caught.value.error_code == "vault_not_found"
    with pytest.raises(NotFoundError) as caught:
        await getattr(client.beta.vaults.credentials, verb)(credential.id, vault_id=other.id)
    assert caught.value.error_code == "credential_not_found"


async def test_deleting_a_vault_deletes_its_credentials(client: AsyncAnthropic, vault: Any, credential: Any):
    deleted = await client.beta.vaults.credentials.delete(credential.id, vault_id=vault.id)
    assert (deleted.id, deleted.type) == (credential.id, "vault_credential_deleted")
    again = await client.beta.vaults.credentials.create(vault.id, auth=auth())
    await client.beta.vaults.delete(vault.id)
    with pytest.raises(NotFoundError):
        await client.beta.vaults.credentials.retrieve(again.id, vault_id=vault.id)
    with pytest.raises(NotFoundError):
        await client.beta.vaults.credentials.create(vault.id, auth=auth())


async def test_a_session_takes_vaults_that_are_there(
    client: AsyncAnthropic, agent: Any, environment: Any, vault: Any
):
    other = await client.beta.vaults.create(display_name="other")
    session = await client.beta.sessions.create(
        agent=agent.id, environment_id=environment.id, vault_ids=[other.id, vault.id]
    )
    assert session.vault_ids == [other.id, vault.id]
    assert (await client.beta.sessions.retrieve(session.id)).vault_ids == [other.id, vault.id]
    with pytest.raises(NotFoundError) as caught:
        await client.beta.sessions.create(
            agent=agent.id, environment_id=environment.id, vault_ids=[vault.id, "vlt_00000000000000000000000000"]
        )
    assert (caught.value.error_code, caught.value.body["error"]["field"]) == ("vault_not_found", "vault_ids.1")
    await client.beta.vaults.archive(other.id)
    for vault_ids, code in (([vault.id, vault.id], "invalid_request"), ([other.id], "vault_archived")):
        with pytest.raises(BadRequestError) as refused:
            await client.beta.sessions.create(agent=agent.id, environment_id=environment.id, vault_ids=vault_ids)
        assert refused.value.error_code == code


async def test_a_secret_is_in_no_row_and_its_hash_cannot_be_searched(http: httpx.AsyncClient, api: Api, vault: Any):
    secret = f"password-{uuid.uuid4()}"
    path = f"/v1/vaults/{vault.id}/credentials"
    body = json.dumps({"auth": auth(secret_value=secret)}).encode()
    headers = {"Idempotency-Key": str(uuid.uuid4()), "content-type": "application/json"}
    first = await http.post(path, content=body, headers=headers)
    again = await http.post(path, content=body, headers=headers)
    assert first.json() == again.json()
    assert again.headers["idempotent-replayed"] == "true"
    other = await http.post(path, content=body.replace(b"password", b"passwort"), headers=headers)
    assert other.status_code == 409
    guess = hashlib.sha256(f"POST {path}?\n".encode() + body).digest()
    async with api.database.transaction("*") as connection:
        tables = await connection.execute(
            "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
            " AND relname <> 'schema_migrations'"
        )
        for table in [row["relname"] for row in await tables.fetchall()]:
            found = await connection.execute(sql.SQL("SELECT t::text AS row FROM {} t").format(sql.Identifier(table)))
            text = " ".join(row["row"] for row in await found.fetchall())
            assert all(form not in text for form in (secret, secret.encode().hex(), guess.hex())), table


async def test_keys_are_put_under_the_newest_master_key_on_demand(http: httpx.AsyncClient):
    answer = await http.post("/v1/vaults/rewrap")
    assert answer.status_code == 200
    assert {name: answer.json()[name] for name in ("type", "rewrapped", "unreadable")} == {
        "type": "vaults_rewrapped",
        "rewrapped": 0,
        "unreadable": 0,
    }
