"""What sandboxes sent out, as clients see it, and the switch that stops it."""

from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest

from controlplane.cli.egress import verified
from controlplane.cli.failure import Failure
from controlplane.store.decisions import PostgresAudit
from controlplane.store.line import Line
from sandbox.egress.contract import AuditEntry
from tests.support.line import running

from .conftest import WORKSPACE, Api

UNKNOWN = "sesn_00000000000000000000000000"


def entry(session_id: str, number: int) -> AuditEntry:
    return AuditEntry(
        exchange_id=f"x{number}",
        ended=number % 2 == 0,
        sandbox_id="sbx_1",
        session_id=session_id,
        workspace_id=WORKSPACE,
        method="GET",
        host="api.example.com",
        port=443,
        path=f"/{number}",
        credential="TOKEN",
        verdict="denied" if number % 2 == 0 else "allowed",
        reason="path_not_bound",
        message="no",
    )


@pytest.fixture
async def audited(api: Api, session: Any) -> AsyncGenerator[str]:
    """A session with five decisions."""
    line = Line(api.database_url)
    async with running(line):
        for number in range(5):
            await PostgresAudit(line).record(entry(session.id, number))
        yield session.id


async def test_decisions_are_listed_in_order_and_in_pages(http: httpx.AsyncClient, audited: str):
    seen: list[dict[str, Any]] = []
    page = None
    while True:
        parameters = {"limit": 2} | ({"page": page} if page else {})
        answer = (await http.get(f"/v1/sessions/{audited}/egress", params=parameters)).json()
        assert len(answer["data"]) <= 2
        seen += answer["data"]
        page = answer["next_page"]
        if page is None:
            break
    assert [(each["seq"], each["path"]) for each in seen] == [(n + 1, f"/{n}") for n in range(5)]
    assert [each["previous_hash"] for each in seen] == ["00" * 32, *(each["hash"] for each in seen[:-1])]
    first = seen[0]
    assert (first["type"], first["credential"], first["verdict"]) == ("egress_decision", "TOKEN", "denied")
    assert (first["exchange_id"], first["ended"], first["tool_use_id"]) == ("x0", True, None)


async def test_decisions_are_narrowed_to_verdicts(http: httpx.AsyncClient, audited: str):
    for parameter in ("verdicts", "verdicts[]"):
        answer = await http.get(f"/v1/sessions/{audited}/egress", params={parameter: ["denied", "cut"]})
        assert [each["path"] for each in answer.json()["data"]] == ["/0", "/2", "/4"]
    answer = await http.get(f"/v1/sessions/{audited}/egress", params={"verdicts": "maybe"})
    assert answer.status_code == 400


async def test_the_record_is_there_when_the_session_is_not(http: httpx.AsyncClient, audited: str):
    assert (await http.delete(f"/v1/sessions/{audited}")).status_code == 200
    answer = await http.get(f"/v1/sessions/{audited}/egress")
    assert len(answer.json()["data"]) == 5


async def test_egress_is_revoked_once_and_restored(http: httpx.AsyncClient, session: Any):
    path = f"/v1/sessions/{session.id}/egress"
    first = await http.post(f"{path}/revoke")
    assert first.json()["type"] == "session_egress"
    assert first.json()["revoked_at"] is not None
    assert (await http.post(f"{path}/revoke")).json() == first.json()
    restored = (await http.post(f"{path}/restore")).json()
    assert (restored["session_id"], restored["revoked_at"]) == (session.id, None)


@pytest.mark.parametrize(("method", "path"), [("GET", ""), ("POST", "/revoke"), ("POST", "/restore")])
async def test_an_unknown_session_is_not_found(http: httpx.AsyncClient, method: str, path: str):
    answer = await http.request(method, f"/v1/sessions/{UNKNOWN}/egress{path}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "session_not_found")


async def test_a_cursor_of_another_listing_is_refused(http: httpx.AsyncClient, session: Any):
    answer = await http.get(f"/v1/sessions/{session.id}/egress", params={"page": "page_e30"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "bad_cursor")


async def test_the_chain_can_be_checked_from_outside(http: httpx.AsyncClient, audited: str):
    seen = (await http.get(f"/v1/sessions/{audited}/egress")).json()["data"]
    assert verified(seen) == (5, seen[-1]["hash"])
    assert verified([]) == (0, "00" * 32)
    for broken in ([*seen[:2], {**seen[2], "path": "/other"}, *seen[3:]], [*seen[:2], *seen[3:]], seen[1:]):
        with pytest.raises(Failure) as caught:
            verified(broken)
        assert caught.value.code == "egress_record_broken"
