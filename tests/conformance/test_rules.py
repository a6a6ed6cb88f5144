"""/v1/rules, and who may decide."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest
from anthropic.types.beta import BetaManagedAgentsAgent, BetaManagedAgentsSession
from psycopg.types.json import Jsonb

from controlplane.ids import new_id
from controlplane.store import keys

from .conftest import WORKSPACE, Api
from .test_bad_input import assert_refused

STATUS = {"command": [{"program": "git", "arguments": ["status"]}]}


@pytest.fixture
async def client_only(api: Api, http: httpx.AsyncClient) -> AsyncGenerator[httpx.AsyncClient]:
    """Somebody whose key may not decide."""
    made = (await http.post("/v1/api_keys", json={"name": "client", "may_decide": False})).json()
    assert made["may_decide"] is False
    async with httpx.AsyncClient(base_url=api.url, headers={"x-api-key": made["key"]}) as opened:
        yield opened


@pytest.fixture
async def elsewhere(api: Api) -> AsyncGenerator[httpx.AsyncClient]:
    """Somebody of another workspace."""
    workspace = f"wrkspc_{new_id('key')}"
    async with api.database.transaction(workspace) as connection:
        await connection.execute("INSERT INTO workspaces (workspace_id, name) VALUES (%s, 'other')", (workspace,))
        issued = await keys.create(connection, workspace, name="other")
    async with httpx.AsyncClient(base_url=api.url, headers={"x-api-key": issued.secret}) as opened:
        yield opened


async def made(http: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    answer = await http.post("/v1/rules", json={"tool": "bash", "verdict": "deny", **fields})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def parked(api: Api, session_id: str, *, name: str = "bash", **value: Any) -> str:
    """A call of the session that waits for a person."""
    use, turn = new_id("sevt"), new_id("turn")
    async with api.database.transaction(WORKSPACE) as connection:
        await connection.execute(
            "INSERT INTO turns (id, workspace_id, session_id, status) VALUES (%s, %s, %s, 'ended')",
            (turn, WORKSPACE, session_id),
        )
        await connection.execute(
            "INSERT INTO tool_calls (id, workspace_id, session_id, turn_id, name, input, verdict)"
            " VALUES (%s, %s, %s, %s, %s, %s, 'ask')",
            (use, WORKSPACE, session_id, turn, name, Jsonb(value)),
        )
    return use


async def test_a_rule_is_made_changed_listed_and_deleted(http: httpx.AsyncClient, session: BetaManagedAgentsSession):
    rule = await made(http, scope=session.id, arguments=[STATUS], verdict="allow", reason="harmless")
    assert (rule["type"], rule["id"][:5], rule["scope"]) == ("rule", "rule_", session.id)
    assert rule["arguments"] == [STATUS]
    assert rule["created_by"].startswith("key_")
    second = await made(http, scope=session.id)
    first = await made(http, scope=session.id, position=1)
    listed = (await http.get("/v1/rules", params={"scope": session.id})).json()["data"]
    assert [each["id"] for each in listed] == [first["id"], rule["id"], second["id"]]
    changed = (await http.post(f"/v1/rules/{rule['id']}", json={"verdict": "deny", "reason": None})).json()
    assert (changed["verdict"], changed["reason"], changed["arguments"]) == ("deny", None, [STATUS])
    assert changed["updated_at"] > rule["updated_at"]
    assert (await http.get(f"/v1/rules/{rule['id']}")).json() == changed
    gone = (await http.delete(f"/v1/rules/{rule['id']}")).json()
    assert gone == {"type": "rule_deleted", "id": rule["id"]}
    assert_refused(await http.get(f"/v1/rules/{rule['id']}"), status=404)


async def test_rules_come_in_pages(http: httpx.AsyncClient, session: BetaManagedAgentsSession):
    expected = [(await made(http, scope=session.id))["id"] for _ in range(5)]
    found: list[str] = []
    page: str | None = None
    while True:
        parameters = {"scope": session.id, "limit": "2", **({"page": page} if page else {})}
        body = (await http.get("/v1/rules", params=parameters)).json()
        found += [each["id"] for each in body["data"]]
        if (page := body["next_page"]) is None:
            break
    assert found == expected


async def test_a_session_s_rules_go_with_it(http: httpx.AsyncClient, session: BetaManagedAgentsSession):
    rule = await made(http, scope=session.id)
    assert (await http.delete(f"/v1/sessions/{session.id}")).status_code == 200
    assert_refused(await http.get(f"/v1/rules/{rule['id']}"), status=404)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"tool": ""}, "tool"),
        ({"tool": "[z-a]"}, "tool"),
        ({"tool": None}, "tool"),
        ({"verdict": "maybe"}, "verdict"),
        ({"scope": "everywhere"}, "scope"),
        ({"arguments": {}}, "arguments"),
        ({"arguments": [{}]}, "arguments.0"),
        ({"arguments": [{"path": "$.a"}]}, "arguments.0"),
        ({"arguments": [{"path": "a", "glob": "x"}]}, "arguments.0.path"),
        ({"arguments": [{"path": "$.a", "regex": "(x"}]}, "arguments.0.regex"),
        ({"arguments": [{"path": "$.a", "regex": "(?=x)"}]}, "arguments.0.regex"),
        ({"arguments": [{"path": "$.a", "regex": "((a{100}){100}){100}"}]}, "arguments.0.regex"),
        ({"arguments": [{"path": "$.a", "glob": "[z-a]"}]}, "arguments.0.glob"),
        ({"arguments": [{"path": "$.a", "range": {"min": 2, "max": 1}}]}, "arguments.0.range"),
        ({"arguments": [{"path": "$.a", "glob": "x", "equals": 1}]}, "arguments.0"),
        ({"arguments": [{"command": [{"arguments": []}]}]}, "arguments.0.command.0.program"),
        ({"arguments": [STATUS] * 33}, "arguments"),
        ({"position": -1}, "position"),
        ({"position": 10**12}, "position"),
        ({"expires_after_seconds": 60}, None),
        ({"verdict": "ask", "expires_after_seconds": 0}, "expires_after_seconds"),
        ({"verdict": "ask", "on_expiry": "ask"}, "on_expiry"),
        ({"expires_at": "tomorrow"}, "expires_at"),
        ({"expires_at": "2030-01-01T00:00:00"}, "expires_at"),
        ({"colour": "red"}, "colour"),
    ],
)
async def test_a_rule_that_cannot_be_is_refused_with_its_field(
    http: httpx.AsyncClient, fields: dict[str, Any], field: str | None
):
    answer = await http.post("/v1/rules", json={"tool": "bash", "verdict": "deny", **fields})
    assert assert_refused(answer)["field"] == field


async def test_a_change_that_cannot_be_is_refused_with_its_field(
    http: httpx.AsyncClient, session: BetaManagedAgentsSession
):
    rule = await made(http, scope=session.id, verdict="ask", expires_after_seconds=60)
    error = assert_refused(await http.post(f"/v1/rules/{rule['id']}", json={"verdict": "allow"}))
    assert error["field"] == "expires_after_seconds"
    fixed = {"verdict": "allow", "expires_after_seconds": None}
    assert (await http.post(f"/v1/rules/{rule['id']}", json=fixed)).json()["verdict"] == "allow"
    assert_refused(await http.post(f"/v1/rules/{rule['id']}", json={"scope": "workspace"}))


async def test_a_scope_that_is_not_there_is_not_found(http: httpx.AsyncClient):
    for scope in (new_id("sesn"), new_id("agent")):
        answer = await http.post("/v1/rules", json={"tool": "*", "verdict": "deny", "scope": scope})
        assert assert_refused(answer, status=404)["field"] == "scope"


async def test_another_workspace_sees_no_rule_and_no_call(
    api: Api, http: httpx.AsyncClient, elsewhere: httpx.AsyncClient, session: BetaManagedAgentsSession
):
    rule, use = await made(http, scope=session.id), await parked(api, session.id, command="ls")
    for method, path, body in (
        ("GET", f"/v1/rules/{rule['id']}", None),
        ("POST", f"/v1/rules/{rule['id']}", {"verdict": "allow"}),
        ("DELETE", f"/v1/rules/{rule['id']}", None),
        ("POST", "/v1/rules", {"tool": "*", "verdict": "allow", "scope": session.id}),
        ("POST", "/v1/rules/evaluate", {"tool": "bash", "input": {}, "session_id": session.id}),
        ("POST", f"/v1/approvals/{use}", {"result": "allow"}),
    ):
        assert_refused(await elsewhere.request(method, path, json=body), status=404)
    assert (await elsewhere.get("/v1/rules")).json()["data"] == []
    assert (await elsewhere.get("/v1/approvals")).json()["data"] == []
    assert (await http.get(f"/v1/rules/{rule['id']}")).json() == rule


async def test_a_key_that_may_not_decide_is_told_what_it_lacks(
    api: Api, http: httpx.AsyncClient, client_only: httpx.AsyncClient, session: BetaManagedAgentsSession
):
    rule, use = await made(http, scope=session.id), await parked(api, session.id, command="ls")
    confirmation = {"type": "user.tool_confirmation", "tool_use_id": use, "result": "allow"}
    for method, path, body in (
        ("POST", f"/v1/approvals/{use}", {"result": "deny"}),
        ("POST", f"/v1/sessions/{session.id}/events", {"events": [confirmation]}),
        ("POST", "/v1/rules", {"tool": "*", "verdict": "allow"}),
        ("POST", f"/v1/rules/{rule['id']}", {"verdict": "allow"}),
        ("DELETE", f"/v1/rules/{rule['id']}", None),
        ("POST", "/v1/api_keys", {"name": "stronger"}),
    ):
        error = assert_refused(await client_only.request(method, path, json=body), status=403)
        assert (error["code"], "may_decide" in error["message"]) == ("key_may_not_decide", True)
    assert (await client_only.get("/v1/rules")).status_code == 200
    assert any(each["id"] == use for each in (await client_only.get("/v1/approvals")).json()["data"])
    weaker = await client_only.post("/v1/api_keys", json={"name": "as weak", "may_decide": False})
    assert weaker.json()["may_decide"] is False


async def test_of_two_decisions_at_once_one_is_taken(
    api: Api, http: httpx.AsyncClient, session: BetaManagedAgentsSession
):
    for _ in range(5):
        use = await parked(api, session.id, command="ls")
        answers = await asyncio.gather(
            *(http.post(f"/v1/approvals/{use}", json={"result": result}) for result in ("allow", "deny") * 3)
        )
        assert sorted(answer.status_code for answer in answers) == [200] + [409] * 5
        listed = (await http.get(f"/v1/sessions/{session.id}/events", params={"limit": "100"})).json()["data"]
        said = [event for event in listed if event.get("tool_use_id") == use]
        assert [event["result"] for event in said] == [
            answer.json()["data"][0]["result"] for answer in answers if answer.is_success
        ]


async def test_a_decision_on_what_waits_no_more_says_why(
    api: Api, http: httpx.AsyncClient, session: BetaManagedAgentsSession
):
    use = await parked(api, session.id, command="ls")
    await http.post(f"/v1/sessions/{session.id}/archive")
    error = assert_refused(await http.post(f"/v1/approvals/{use}", json={"result": "allow"}), status=409)
    assert (error["code"], "archived" in error["message"]) == ("tool_use_not_waiting", True)
    await http.delete(f"/v1/sessions/{session.id}")
    error = assert_refused(await http.post(f"/v1/approvals/{use}", json={"result": "allow"}), status=404)
    assert error["code"] == "tool_use_not_found"


async def test_edited_arguments_must_fit_the_tool_and_every_rule(
    api: Api, http: httpx.AsyncClient, session: BetaManagedAgentsSession
):
    use = await parked(api, session.id, command="ls")
    await made(http, scope=session.id, arguments=[{"command": [{"program": "rm"}]}], reason="nothing is removed")
    for value, code in (
        ({}, "invalid_input"),
        ({"command": 5}, "invalid_input"),
        ({"command": "ls", "colour": "red"}, "invalid_input"),
        ({"command": "ls; rm x"}, "denied_by_rule"),
        ({"command": "ls ("}, "denied_by_rule"),
    ):
        answer = await http.post(f"/v1/approvals/{use}", json={"result": "allow", "input": value})
        error = assert_refused(answer)
        assert (error["code"], error["field"]) == (code, "input")
    for body in (
        {"result": "deny", "input": {}},
        {"result": "deny", "remember": "session"},
        {"result": "allow", "input": []},
    ):
        assert_refused(await http.post(f"/v1/approvals/{use}", json=body))
    decided = {"result": "allow", "input": {"command": "ls -l"}, "remember": "session"}
    assert (await http.post(f"/v1/approvals/{use}", json=decided)).status_code == 200
    (call,) = (await http.get(f"/v1/sessions/{session.id}/tool_calls")).json()["data"]
    assert (call["input"], call["edited_input"]) == ({"command": "ls"}, {"command": "ls -l"})
    _, remembered = (await http.get("/v1/rules", params={"scope": session.id})).json()["data"]
    assert remembered["arguments"] == [{"path": "$", "equals": {"command": "ls -l"}}]
    assert (remembered["verdict"], remembered["created_by"]) == ("allow", call["decided_by"])


async def test_what_a_rule_denies_by_now_cannot_be_allowed(
    api: Api, http: httpx.AsyncClient, session: BetaManagedAgentsSession
):
    use = await parked(api, session.id, command="ls")
    rule = await made(http, scope=session.id, reason="frozen")
    error = assert_refused(await http.post(f"/v1/approvals/{use}", json={"result": "allow"}), status=409)
    assert (error["code"], rule["id"] in error["message"], "frozen" in error["message"]) == (
        "denied_by_rule",
        True,
        True,
    )
    assert (await http.post(f"/v1/approvals/{use}", json={"result": "deny"})).status_code == 200


async def test_a_call_can_be_tried_without_being_made(
    http: httpx.AsyncClient, agent: BetaManagedAgentsAgent, session: BetaManagedAgentsSession
):
    deny = await made(http, scope=agent.id, reason="not here")
    allow = await made(http, scope=session.id, verdict="allow", arguments=[STATUS])

    async def tried(command: str, **place: str) -> dict[str, Any]:
        body = {"tool": "bash", "input": {"command": command}, **place}
        answer = await http.post("/v1/rules/evaluate", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    found = await tried("git status", session_id=session.id)
    assert (found["verdict"], found["decided_by"], found["rule"]) == ("allow", "rule", allow)
    found = await tried("git status; rm x", session_id=session.id)
    assert (found["verdict"], found["rule"]["id"], "not here" in found["reason"]) == ("deny", deny["id"], True)
    assert [each["rule_id"] for each in found["passed"]] == [allow["id"]]
    assert "rm" in found["passed"][0]["because"]
    assert (await tried("git status", agent_id=agent.id))["rule"]["id"] == deny["id"]
    assert (await tried("git status"))["decided_by"] == "policy"
    both = {"tool": "bash", "input": {}, "session_id": session.id, "agent_id": agent.id}
    assert_refused(await http.post("/v1/rules/evaluate", json=both))


async def test_a_scope_holds_a_bounded_number_of_rules(http: httpx.AsyncClient, session: BetaManagedAgentsSession):
    answers = await asyncio.gather(
        *(http.post("/v1/rules", json={"tool": "x", "verdict": "deny", "scope": session.id}) for _ in range(205))
    )
    assert sum(answer.is_success for answer in answers) == 200
    refused = [assert_refused(answer) for answer in answers if not answer.is_success]
    assert {(error["code"], error["field"]) for error in refused} == {("too_many_rules", "scope")}
