"""Memory stores, memories, versions and search, through the public SDK and plain HTTP."""

import hashlib
import json
from typing import Any

import httpx
import pytest
from anthropic import APIStatusError, AsyncAnthropic, BadRequestError, ConflictError, NotFoundError

from controlplane.ids import new_id

SECRET = "ghp_" + "a1B2c3D4e5" * 3 + "f6G7h8"


@pytest.fixture
async def store(client: AsyncAnthropic) -> Any:
    """A fresh store."""
    return await client.beta.memory_stores.create(name="Team notes", description="What the team knows.")


def code(caught: Any) -> str:
    return caught.value.body["error"]["code"]


async def save(http: httpx.AsyncClient, store: Any, path: str, content: str, **more: Any) -> dict[str, Any]:
    body = {"path": path, "content": content, **more}
    answer = await http.post(f"/v1/memory_stores/{store.id}/memories?view=full", json=body)
    assert answer.is_success, answer.text
    return answer.json()


async def search(http: httpx.AsyncClient, store: Any, query: str, **more: Any) -> list[dict[str, Any]]:
    answer = await http.post(f"/v1/memory_stores/{store.id}/search", json={"query": query, **more})
    assert answer.is_success, answer.text
    return answer.json()["data"]


async def test_a_store_is_made_changed_archived_and_deleted(client: AsyncAnthropic):
    stores = client.beta.memory_stores
    made = await stores.create(name="Ada", description="d", metadata={"user": "1", "drop": "x"})
    assert made.id.startswith("memstore_")
    changed = await stores.update(made.id, name="Bob", description="", metadata={"drop": None})
    assert (changed.name, changed.description, changed.metadata) == ("Bob", "", {"user": "1"})
    assert await stores.retrieve(made.id) == changed
    assert made.id in [each.id async for each in stores.list()]
    archived = await stores.archive(made.id)
    assert archived.archived_at is not None
    assert made.id not in [each.id async for each in stores.list()]
    assert made.id in [each.id async for each in stores.list(include_archived=True)]
    with pytest.raises(BadRequestError) as caught:
        await stores.memories.create(made.id, path="/a", content="x")
    assert code(caught) == "memory_store_archived"
    assert (await stores.delete(made.id)).type == "memory_store_deleted"
    with pytest.raises(NotFoundError) as gone:
        await stores.retrieve(made.id)
    assert code(gone) == "memory_store_not_found"


async def test_a_memory_has_versions_and_preconditions(client: AsyncAnthropic, store: Any):
    memories = client.beta.memory_stores.memories
    made = await memories.create(store.id, path="/notes/todo.md", content="buy milk")
    assert made.content is None
    assert made.content_sha256 == hashlib.sha256(b"buy milk").hexdigest()
    read = await memories.retrieve(made.id, memory_store_id=store.id)
    assert (read.content, read.content_size_bytes) == ("buy milk", 8)
    changed = await memories.update(
        made.id,
        memory_store_id=store.id,
        content="buy bread",
        precondition={"type": "content_sha256", "content_sha256": made.content_sha256},
    )
    assert changed.memory_version_id != made.memory_version_id
    with pytest.raises(ConflictError) as caught:
        await memories.update(
            made.id,
            memory_store_id=store.id,
            content="no",
            precondition={"type": "content_sha256", "content_sha256": made.content_sha256},
        )
    assert code(caught) == "memory_precondition_failed"
    moved = await memories.update(made.id, memory_store_id=store.id, path="/notes/done.md")
    assert (moved.id, moved.path) == (made.id, "/notes/done.md")
    await memories.delete(made.id, memory_store_id=store.id, expected_content_sha256=moved.content_sha256)
    versions = [
        each
        async for each in client.beta.memory_stores.memory_versions.list(store.id, memory_id=made.id, view="full")
    ]
    assert [each.operation for each in versions] == ["deleted", "modified", "modified", "created"]
    assert [each.content for each in versions] == [None, "buy bread", "buy bread", "buy milk"]
    assert versions[0].created_by is not None and versions[0].created_by.type == "api_actor"


async def test_a_redacted_version_is_gone_with_its_vector_and_its_answers(
    client: AsyncAnthropic, http: httpx.AsyncClient, store: Any, api: Any
):
    body = {"path": "/p", "content": "the launch code is a walrus"}
    url = f"/v1/memory_stores/{store.id}/memories?view=full"
    made = (await http.post(url, json=body, headers={"idempotency-key": f"k-{store.id}"})).json()
    versions = client.beta.memory_stores.memory_versions
    with pytest.raises(ConflictError) as caught:
        await versions.redact(made["memory_version_id"], memory_store_id=store.id)
    assert code(caught) == "memory_version_is_current"
    await client.beta.memory_stores.memories.update(made["id"], memory_store_id=store.id, content="nothing")
    redacted = await versions.redact(made["memory_version_id"], memory_store_id=store.id)
    assert redacted.redacted_at is not None
    assert (redacted.content, redacted.path, redacted.content_sha256, redacted.content_size_bytes) == (None,) * 4
    async with api.database.transaction("wrkspc_default") as connection:
        for table, column in (("memory_versions", "id"), ("memory_vectors", "version_id")):
            row = await (
                await connection.execute(
                    f"SELECT t.* FROM {table} t WHERE {column} = %s",  # noqa: S608
                    (made["memory_version_id"],),
                )
            ).fetchone()
            assert "walrus" not in json.dumps(row, default=str)
            assert table == "memory_versions" or row is None
        kept = await (
            await connection.execute(
                "SELECT count(*) AS n FROM idempotency_keys WHERE response::text LIKE '%walrus%'"
            )
        ).fetchone()
        assert kept is not None and kept["n"] == 0
    assert await search(http, store, "walrus", as_of=made["created_at"]) == []
    again = await http.post(url, json=body, headers={"idempotency-key": f"k-{store.id}"})
    assert again.json() == {"type": "memory_version_redacted", "memory_version_id": made["memory_version_id"]}
    assert (await http.get(url)).json()["data"][0]["content"] == "nothing"


async def test_a_repeated_request_does_not_make_a_deleted_store_again(http: httpx.AsyncClient):
    headers = {"idempotency-key": "a-store-once"}
    made = (await http.post("/v1/memory_stores", json={"name": "once"}, headers=headers)).json()
    assert (await http.delete(f"/v1/memory_stores/{made['id']}")).is_success
    assert (await http.post("/v1/memory_stores", json={"name": "once"}, headers=headers)).json()["id"] == made["id"]
    assert (await http.get(f"/v1/memory_stores/{made['id']}")).status_code == 404


async def test_listings_roll_up_and_page(client: AsyncAnthropic, store: Any):
    memories = client.beta.memory_stores.memories
    for path in ("/a.md", "/b/1.md", "/b/2.md", "/b/c/3.md", "/d.md"):
        await memories.create(store.id, path=path, content=path)
    everything = [each.path async for each in memories.list(store.id, limit=2)]
    assert everything == ["/a.md", "/b/1.md", "/b/2.md", "/b/c/3.md", "/d.md"]
    rolled = [(each.type, each.path) async for each in memories.list(store.id, depth=1, limit=1)]
    assert rolled == [("memory", "/a.md"), ("memory_prefix", "/b/"), ("memory", "/d.md")]
    inside = [each.path async for each in memories.list(store.id, path_prefix="/b/", depth=1)]
    assert inside == ["/b/1.md", "/b/2.md", "/b/c/"]
    full = await memories.list(store.id, view="full", path_prefix="/b/c/")
    assert [getattr(each, "content", None) for each in full.data] == ["/b/c/3.md"]


@pytest.mark.parametrize(
    "path", ["relative", "/", "//", "/a/../b", "/a/./b", "/a\u200b", "/a\n", "/" + "x" * 1024, "/e\u0301", "/a" * 21]
)
async def test_a_path_that_cannot_be_is_refused(client: AsyncAnthropic, store: Any, path: str):
    with pytest.raises(BadRequestError) as caught:
        await client.beta.memory_stores.memories.create(store.id, path=path, content="x")
    assert caught.value.body["error"]["field"] == "path"


async def test_a_path_holds_one_memory_and_is_no_folder(client: AsyncAnthropic, store: Any):
    memories = client.beta.memory_stores.memories
    await memories.create(store.id, path="/a/b", content="x")
    for path in ("/a/b", "/a", "/a/b/c"):
        with pytest.raises(ConflictError) as caught:
            await memories.create(store.id, path=path, content="x")
        assert code(caught) == "memory_path_taken"


async def test_blocks_are_validated_and_patched(http: httpx.AsyncClient, store: Any):
    schema = {
        "type": "object",
        "properties": {"step": {"type": "integer"}, "note": {"type": "string", "pattern": "^[a-z ]*$"}},
        "required": ["step"],
    }
    made = await save(http, store, "/state", '{"step": 1}', memory_type="plan", json_schema=schema)
    url = f"/v1/memory_stores/{store.id}/memories/{made['id']}?view=full"
    answer = await http.post(url, json={"patch": {"step": 2, "note": "going on"}, "version": 1})
    assert json.loads(answer.json()["content"]) == {"step": 2, "note": "going on"}
    for patch, field in (
        ({"step": "two"}, "content.step"),
        ({"note": "NO"}, "content.note"),
        ({"step": None}, "content"),
    ):
        refused = await http.post(url, json={"patch": patch})
        assert (refused.status_code, refused.json()["error"]["field"]) == (400, field)
    stale = await http.post(url, json={"patch": {"step": 3}, "version": 1})
    assert (stale.status_code, stale.json()["error"]["code"]) == (409, "memory_precondition_failed")
    long = await http.post(
        f"/v1/memory_stores/{store.id}/memories", json={"path": "/p", "content": "x" * 4001, "memory_type": "persona"}
    )
    assert (long.status_code, long.json()["error"]["field"]) == (400, "content")
    remote = {"$ref": "https://example.com/schema.json"}
    other = await http.post(
        f"/v1/memory_stores/{store.id}/memories", json={"path": "/q", "content": "{}", "json_schema": remote}
    )
    assert (other.status_code, other.json()["error"]["field"]) == (400, "json_schema")


async def test_search_finds_by_meaning_and_words_and_says_why(http: httpx.AsyncClient, store: Any):
    await save(http, store, "/food", "Ada is allergic to peanuts and shellfish", memory_type="facts")
    await save(http, store, "/work", "The billing service is written in Rust", memory_type="decisions")
    await save(http, store, "/trip", "Ada flies to Reykjavik on 3 May")
    [first, *_] = await search(http, store, "what can Ada not eat?")
    assert first["memory"]["path"] == "/food"
    assert "meaning" in first["reason"] and "ada" in first["reason"]
    [misspelt, *_] = await search(http, store, "Reykjavek")
    assert misspelt["memory"]["path"] == "/trip" and "~reykjavek" in misspelt["reason"]
    typed = await search(http, store, "Ada", types=["decisions"])
    assert [hit["memory"]["path"] for hit in typed] == ["/work"]
    assert [hit["memory"]["path"] for hit in await search(http, store, "Ada", path_prefix="/tr")] == ["/trip"]


async def test_what_is_superseded_comes_last_and_as_of_sees_it_again(http: httpx.AsyncClient, store: Any):
    lines = [
        {"path": "/db/1", "content": "We use MySQL as database", "created_at": "2024-01-01T00:00:00Z"},
        {"path": "/other", "content": "Lunch is at noon", "created_at": "2024-01-02T00:00:00Z"},
        {
            "path": "/db/2",
            "content": "We use Postgres as database",
            "created_at": "2025-01-01T00:00:00Z",
            "supersedes": "/db/1",
        },
    ]
    url = f"/v1/memory_stores/{store.id}/import"
    first = (await http.post(url, json={"memories": lines})).json()
    assert (first["created"], first["unchanged"]) == (3, 0)
    again = (await http.post(url, json={"memories": lines})).json()
    assert (again["created"], again["unchanged"]) == (0, 3)
    found = await search(http, store, "We use MySQL as database")
    assert [hit["memory"]["path"] for hit in found] == ["/db/2", "/other", "/db/1"]
    assert "supersedes /db/1" in found[0]["reason"] and "superseded by /db/2" in found[-1]["reason"]
    then = await search(http, store, "database", as_of="2024-06-01T00:00:00Z")
    assert [hit["memory"]["path"] for hit in then] == ["/db/1", "/other"]
    assert then[0]["memory"]["created_at"].startswith("2024-01-01")


async def test_a_search_sees_what_a_memory_said_at_that_time(http: httpx.AsyncClient, store: Any):
    line = {"path": "/city", "content": "Ada lives in Oslo", "created_at": "2024-01-01T00:00:00Z"}
    url = f"/v1/memory_stores/{store.id}/import"
    await http.post(url, json={"memories": [line]})
    moved = {"path": "/city", "content": "Ada lives in Lima", "created_at": "2025-01-01T00:00:00Z"}
    await http.post(url, json={"memories": [moved]})
    [then] = await search(http, store, "where does Ada live", as_of="2024-06-01T00:00:00Z")
    [now] = await search(http, store, "where does Ada live")
    assert (then["memory"]["content"], now["memory"]["content"]) == ("Ada lives in Oslo", "Ada lives in Lima")


async def test_secrets_are_taken_out_before_they_are_kept(
    http: httpx.AsyncClient, client: AsyncAnthropic, store: Any, api: Any
):
    vault = await client.beta.vaults.create(display_name="v")
    own = "quiet-otter-swims-9"
    await client.beta.vaults.credentials.create(
        vault.id,
        auth={
            "type": "environment_variable",
            "secret_name": "PASS",
            "secret_value": own,
            "networking": {"type": "limited", "allowed_hosts": ["api.github.com"]},
        },
    )
    made = await save(http, store, "/s", f"token {SECRET}, and the phrase {own}.")
    assert SECRET not in made["content"] and own not in made["content"]
    assert made["redacted"] == ["GitHub Token", "a secret of the vault"]
    assert made["content_sha256"] == hashlib.sha256(made["content"].encode()).hexdigest()
    async with api.database.transaction("*") as connection:
        for table in ("memories", "memory_versions", "memory_vectors", "idempotency_keys"):
            query = f"SELECT t::text AS row FROM {table} t"  # noqa: S608
            rows = await (await connection.execute(query.encode())).fetchall()
            assert not [row for row in rows if SECRET in row["row"] or own in row["row"]]
    refused = await http.post(f"/v1/memory_stores/{store.id}/memories", json={"path": f"/{SECRET}", "content": "x"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "secret_in_path")
    assert SECRET not in refused.text


async def test_quotas_hold(http: httpx.AsyncClient):
    made = (await http.post("/v1/memory_stores", json={"name": "small", "max_memories": 2, "max_bytes": 10})).json()
    url = f"/v1/memory_stores/{made['id']}/memories"
    assert (await http.post(url, json={"path": "/a", "content": "12345"})).is_success
    full = await http.post(url, json={"path": "/b", "content": "123456"})
    assert (full.status_code, full.json()["error"]["code"]) == (409, "memory_store_full")
    assert (await http.post(url, json={"path": "/b", "content": "12345"})).is_success
    assert (await http.post(url, json={"path": "/c", "content": ""})).json()["error"]["code"] == "memory_store_full"


async def test_what_has_expired_is_out_of_sight(http: httpx.AsyncClient, store: Any):
    made = await save(http, store, "/old", "Ada waits", expires_at="2020-01-01T00:00:00Z")
    assert (await http.get(f"/v1/memory_stores/{store.id}/memories/{made['id']}")).status_code == 404
    assert await search(http, store, "Ada waits") == []
    again = await save(http, store, "/old", "Ada is back")
    assert again["content"] == "Ada is back"


async def test_what_has_expired_is_in_nobodys_way(http: httpx.AsyncClient, store: Any):
    for path in ("/a", "/b/1", "/b/2"):
        await save(http, store, path, "gone", expires_at="2020-01-01T00:00:00Z")
    assert (await save(http, store, "/a/below", "a folder now"))["path"] == "/a/below"
    assert (await save(http, store, "/b", "a file now"))["path"] == "/b"
    await save(http, store, "/c/1", "gone", expires_at="2020-01-01T00:00:00Z")
    await save(http, store, "/c/2", "here")
    refused = await http.post(f"/v1/memory_stores/{store.id}/memories", json={"path": "/c", "content": "a file"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "memory_path_taken")


async def test_a_session_gets_stores_that_its_owner_may_have(
    client: AsyncAnthropic, http: httpx.AsyncClient, agent: Any, environment: Any, store: Any
):
    async def owned(**owner: str) -> str:
        return (await http.post("/v1/memory_stores", json={"name": "Mine!", "owner": owner})).json()["id"]

    of_agent, of_user = await owned(type="agent", id=agent.id), await owned(type="user", id="ada")
    attached = [{"type": "memory_store", "memory_store_id": each} for each in (store.id, of_agent)]
    session = await client.beta.sessions.create(agent=agent.id, environment_id=environment.id, resources=attached)
    assert [each.mount_path for each in session.resources] == ["/mnt/memory/team-notes", "/mnt/memory/mine"]
    assert session.resources[0].description == "What the team knows."
    assert [s.id async for s in client.beta.sessions.list(memory_store_id=store.id)] == [session.id]
    with pytest.raises(NotFoundError) as caught:
        await client.beta.sessions.create(
            agent=agent.id,
            environment_id=environment.id,
            resources=[{"type": "memory_store", "memory_store_id": of_user}],
        )
    assert caught.value.body["error"]["field"] == "resources.0.memory_store_id"
    answers: list[dict[str, Any]] = []
    archived = await owned(type="user", id="ada")
    await client.beta.memory_stores.archive(archived)
    for unreachable in (of_user, archived, new_id("memstore")):
        with pytest.raises(NotFoundError) as caught:
            await client.beta.sessions.create(
                agent=agent.id,
                environment_id=environment.id,
                resources=[{"type": "memory_store", "memory_store_id": unreachable}],
            )
        error = caught.value.body["error"]
        answers.append({**error, "message": error["message"].replace(unreachable, "ID")})
    assert answers[0] == answers[1] == answers[2]
    made = await http.post(
        "/v1/sessions",
        json={
            "agent": agent.id,
            "environment_id": environment.id,
            "user_id": "ada",
            "resources": [{"type": "memory_store", "memory_store_id": of_user, "access": "read_only"}],
        },
    )
    assert made.json()["resources"][0]["access"] == "read_only"
    own = (
        await http.post("/v1/memory_stores", json={"name": "s", "owner": {"type": "session", "id": session.id}})
    ).json()
    added = await http.post(
        f"/v1/sessions/{session.id}/resources", json={"type": "memory_store", "memory_store_id": own["id"]}
    )
    assert added.json()["mount_path"] == "/mnt/memory/s"


async def test_memories_of_another_store_are_not_told_from_none(client: AsyncAnthropic, store: Any):
    other = await client.beta.memory_stores.create(name="other")
    made = await client.beta.memory_stores.memories.create(other.id, path="/x", content="x")
    errors: list[Any] = []
    for memory_id in (made.id, "mem_" + "0" * 26):
        with pytest.raises(APIStatusError) as caught:
            await client.beta.memory_stores.memories.retrieve(memory_id, memory_store_id=store.id)
        errors.append(caught.value.body["error"]["message"].replace(memory_id, "ID"))
    assert errors[0] == errors[1]


async def test_a_bad_line_of_an_import_is_named_and_nothing_is_kept(http: httpx.AsyncClient, store: Any):
    lines = [{"path": "/good", "content": "x"}, {"path": "bad", "content": "x"}]
    answer = await http.post(f"/v1/memory_stores/{store.id}/import", json={"memories": lines})
    assert (answer.status_code, answer.json()["error"]["field"]) == (400, "memories.1.path")
    lines[1] = {"path": "/good/file", "content": "x"}
    answer = await http.post(f"/v1/memory_stores/{store.id}/import", json={"memories": lines})
    assert (answer.status_code, answer.json()["error"]["field"]) == (409, "memories.1.path")
    assert (await http.get(f"/v1/memory_stores/{store.id}/memories")).json()["data"] == []


async def test_an_update_that_is_repeated_is_answered_as_the_first_time(http: httpx.AsyncClient, store: Any):
    made = await save(http, store, "/n", "one")
    url = f"/v1/memory_stores/{store.id}/memories/{made['id']}"
    body, key = {"content": "two", "version": 1}, {"idempotency-key": f"u-{store.id}"}
    first, again = [await http.post(url, json=body, headers=key) for _ in range(2)]
    assert (first.status_code, again.status_code) == (200, 200)
    assert first.json() == again.json()
    assert (await http.post(url, json=body)).status_code == 409


async def test_an_untrusted_mark_stays_until_somebody_vouches(http: httpx.AsyncClient, store: Any):
    made = await save(http, store, "/a", '{"x": "evil", "y": 1}', untrusted=True)
    assert made["untrusted"]
    url = f"/v1/memory_stores/{store.id}/memories/{made['id']}"
    for body in ({"expires_at": "2100-01-01T00:00:00Z"}, {"path": "/b"}, {"protected": True}, {"patch": {"y": 2}}):
        assert (await http.post(url, json=body)).json()["untrusted"], body
    assert not (await http.post(url, json={"untrusted": False})).json()["untrusted"]
    assert (await http.post(url, json={"untrusted": True})).json()["untrusted"]
    assert not (await http.post(url, json={"content": "mine"})).json()["untrusted"]
    line = {"path": "/in", "content": "evil", "untrusted": True}
    for _ in range(2):
        await http.post(f"/v1/memory_stores/{store.id}/import", json={"memories": [line]})
    listed = (await http.get(f"/v1/memory_stores/{store.id}/memories", params={"path": "/in"})).json()["data"]
    assert [(each["untrusted"], each["version"]) for each in listed] == [(True, 1)]


async def test_a_search_is_narrowed_to_times_and_authors(http: httpx.AsyncClient, client: AsyncAnthropic, store: Any):
    for year in (2023, 2024, 2025):
        await save(http, store, f"/{year}", f"Ada met Bob in {year}", created_at=f"{year}-06-01T00:00:00Z")
    made = await client.beta.memory_stores.memories.list(store.id)
    version = await client.beta.memory_stores.memory_versions.list(store.id)
    assert len(made.data) == 3
    key = json.loads(version.data[0].model_dump_json())["created_by"]["api_key_id"]

    async def paths(**narrowed: Any) -> set[str]:
        return {hit["memory"]["path"] for hit in await search(http, store, "Ada Bob", **narrowed)}

    assert await paths(created_after="2024-01-01T00:00:00Z") == {"/2024", "/2025"}
    assert await paths(created_before="2024-12-01T00:00:00Z") == {"/2023", "/2024"}
    between = {"created_after": "2024-01-01T00:00:00Z", "created_before": "2024-12-01T00:00:00Z"}
    assert await paths(**between) == {"/2024"}
    assert await paths(author=key) == {"/2023", "/2024", "/2025"}
    assert await paths(author="sesn_other") == set()


@pytest.mark.parametrize(
    ("field", "beside"),
    [
        ("supersedes", {"supersedes": f"/{SECRET}"}),
        ("json_schema", {"memory_type": "plan", "json_schema": {"description": f"never {SECRET}"}}),
    ],
)
async def test_no_secret_is_kept_beside_a_content(
    http: httpx.AsyncClient, store: Any, field: str, beside: dict[str, Any]
):
    url = f"/v1/memory_stores/{store.id}"
    memory = await save(http, store, "/x", "{}")
    line = {"path": "/z", "content": "{}", **beside}
    line["type"] = line.pop("memory_type", None)
    for path, body in (
        ("memories", {"path": "/y", "content": "{}", **beside}),
        (f"memories/{memory['id']}", beside),
        ("import", {"memories": [line]}),
    ):
        refused = await http.post(f"{url}/{path}", json=body)
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, f"secret_in_{field}"), refused.text
        assert refused.json()["error"]["field"].endswith(field)
        assert SECRET not in refused.text


async def test_no_secret_is_kept_of_a_store(http: httpx.AsyncClient, store: Any):
    for field, value in (("name", SECRET), ("description", f"use {SECRET}"), ("metadata", {"key": SECRET})):
        for path in ("/v1/memory_stores", f"/v1/memory_stores/{store.id}"):
            refused = await http.post(path, json={"name": "n", field: value})
            assert (refused.status_code, refused.json()["error"]["code"]) == (400, f"secret_in_{field}")


async def test_a_search_says_how_a_memory_is_set(http: httpx.AsyncClient, store: Any):
    settings = {"memory_type": "plan", "json_schema": {"type": "object"}, "size_limit": 99, "protected": True}
    saved = await save(http, store, "/x", '{"goal": "tea"}', expires_at="2100-01-01T00:00:00Z", **settings)
    [hit] = await search(http, store, "tea")
    assert hit["memory"] == saved


async def test_an_archived_store_keeps_its_memories(client: AsyncAnthropic, store: Any):
    memories = client.beta.memory_stores.memories
    memory = await memories.create(store.id, path="/x", content="tea")
    await client.beta.memory_stores.archive(store.id)
    with pytest.raises(BadRequestError) as caught:
        await memories.delete(memory.id, memory_store_id=store.id)
    assert code(caught) == "memory_store_archived"
