"""Deployments for tests, and their firing without waiting for the time."""

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

from controlplane.deployments.scheduler import Scheduler
from controlplane.ids import new_id
from controlplane.store import due, ledger
from controlplane.store.pool import ALL_WORKSPACES
from controlplane.store.turns import PostgresTurns
from harness_adapters.contract import Usage
from workflows.connection import TemporalServer, connect
from workflows.contracts import FiringInput, TurnEnd, TurnInput
from workflows.records import TurnStart

from .conftest import WORKSPACE, Api

HELLO = {"type": "user.message", "content": [{"type": "text", "text": "hello"}]}
EVERY_MINUTE = {"type": "cron", "expression": "* * * * *", "timezone": "UTC"}


async def scheduler(api: Api) -> Scheduler:
    """A scheduler beside the API; its Temporal is away, and it needs none to fire."""
    return Scheduler(
        database=api.database, client=await connect(TemporalServer("127.0.0.1:9")), submitter=api.submitter
    )


class Deployer:
    """Makes deployments through the API, and fires them."""

    def __init__(self, api: Api, http: httpx.AsyncClient):
        self._minute = datetime.now(UTC).replace(second=0, microsecond=0)
        self._begun: list[str] = []
        self.api = api
        self.turns = PostgresTurns(api.database, gateway_url="http://127.0.0.1:9")
        self.http = http

    def minutes_ago(self, count: int) -> datetime:
        """A fire time of `EVERY_MINUTE`, counted from the test's beginning: a minute may end in its middle."""
        return self._minute - timedelta(minutes=count)

    async def post(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """POST and return the answer, which must be a success."""
        answer = await self.http.post(path, json=body or {})
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def agent(self, **more: Any) -> str:
        """Make an agent."""
        return (await self.post("/v1/agents", {"name": "a", "model": "scripted/demo", **more}))["id"]

    async def environment(self, **more: Any) -> str:
        """Make an environment."""
        return (await self.post("/v1/environments", {"name": "e", **more}))["id"]

    async def body(self, **more: Any) -> dict[str, Any]:
        """Return what a deployment of a fresh agent and environment is made of."""
        return {
            "name": new_id("depl"),
            "agent": more.pop("agent", None) or await self.agent(),
            "environment_id": more.pop("environment_id", None) or await self.environment(),
            "initial_events": [HELLO],
            **more,
        }

    async def made(self, **more: Any) -> dict[str, Any]:
        """Make a deployment that fires every minute, unless told otherwise."""
        return await self.post("/v1/deployments", await self.body(**{"schedule": EVERY_MINUTE, **more}))

    async def get(self, deployment: dict[str, Any]) -> dict[str, Any]:
        """Read a deployment."""
        return (await self.http.get(f"/v1/deployments/{deployment['id']}")).json()

    async def fire(self, deployment: dict[str, Any], at: datetime, *, give_up: bool = False) -> None:
        """Fire as Temporal's schedule does."""
        firing = FiringInput(deployment_id=deployment["id"], workspace_id=WORKSPACE, fire_at=at)
        await (await scheduler(self.api)).fire(firing, give_up=give_up)

    async def runs(self, deployment: dict[str, Any]) -> list[dict[str, Any]]:
        """Return a deployment's runs, the first fire time first."""
        found = await self.http.get("/v1/deployment_runs", params={"deployment_id": deployment["id"], "limit": 1000})
        return sorted(
            found.json()["data"], key=lambda run: run["trigger_context"]["scheduled_at"] or run["created_at"]
        )

    async def outcome(self, deployment: dict[str, Any], at: datetime) -> dict[str, Any]:
        """Fire, and return the run."""
        await self.fire(deployment, at)
        return next(run for run in await self.runs(deployment) if _time_of(run) == at)

    async def execute(self, statement: str, *values: Any) -> None:
        """Change rows behind everybody's back."""
        async with self.api.database.transaction(WORKSPACE) as connection:
            await connection.execute(statement.encode(), values)

    async def turn(self, session_id: str) -> TurnStart:
        """Begin a turn of a session, as a brain does."""
        wanted = TurnInput(session_id=session_id, workspace_id=WORKSPACE, turn_id=new_id("turn"))
        begun = await self.turns.begin(wanted, worker_id="nobody", task_token=b"")
        assert isinstance(begun, TurnStart), begun
        self._begun.append(begun.input.turn_id)
        return begun

    async def leave(self) -> None:
        """Leave no turn running: there is no brain that ends it, and who stops what is alive would wait for it."""
        await self.execute("UPDATE turns SET status = 'ended' WHERE id = ANY(%s)", self._begun)

    async def rest(self, run: dict[str, Any], end: TurnEnd = "end_turn") -> None:
        """Let a run's session have its next turn, which ends so."""
        await self.turns.end(await self.turn(run["session_id"]), end)


def _time_of(run: dict[str, Any]) -> datetime | None:
    at = run["trigger_context"]["scheduled_at"]
    return datetime.fromisoformat(at) if at else None


async def past_the_deadline(deployer: Deployer, run: dict[str, Any]) -> None:
    """Have a run's deadline pass."""
    await deployer.execute("UPDATE deployment_runs SET deadline_at = now() WHERE id = %s", run["id"])


async def look(api: Api) -> None:
    """Do what the scheduler does at each round, but for telling Temporal."""
    background = await scheduler(api)
    async with api.database.transaction(ALL_WORKSPACES) as connection:
        rested, overdue = await due.rested(connection), await due.overdue(connection)
    for run in rested:
        await background.end(run)
    for each in overdue:
        await background.end_overdue(each)
    async with api.database.transaction(ALL_WORKSPACES) as connection:
        promotable = await due.promotable(connection)
    for each in promotable:
        await background.promote(each)


async def spend(deployer: Deployer, turn: TurnStart, tokens: int) -> None:
    """Have a turn make a model request, as the gateway books it."""
    wanted = ledger.Wanted(
        request_id=new_id("sevt"), model=turn.spec.model, provider="x", upstream_model="x", input_tokens=1
    )
    token = hashlib.sha256(turn.spec.gateway_token.encode()).digest()
    async with deployer.api.database.transaction(WORKSPACE) as connection:
        await ledger.reserve(connection, token, wanted)
        answered = ledger.Outcome("metered", usage=Usage(input_tokens=tokens))
        assert await ledger.settle(connection, wanted.request_id, answered)


async def priced(deployer: Deployer, name: str) -> str:
    """Make an agent whose model costs a dollar for a thousand tokens."""
    model = f"scripted/{name}"
    await deployer.post("/v1/prices", {"model": model, "input": "1000", "output": "1000"})
    return await deployer.agent(model=model)
