"""/v1/rules: rules on the arguments of tool calls."""

from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.responses import Response

from controlplane.api.exchange import CurrentExchange, json_response, reads
from controlplane.api.pages import DEFAULT_LIMIT, Cursor, LimitParam, PageParam, decode, encode
from controlplane.checks import refused
from controlplane.store import agents, judging, rules, sessions
from controlplane.store.pool import Connection
from controlplane.store.rules import RuleContent, RuleRecord
from controlplane.wire.common import Page
from controlplane.wire.rules import (
    Evaluation,
    PassedRule,
    Rule,
    RuleCreate,
    RuleDeleted,
    RuleEvaluate,
    RuleUpdate,
)
from workflows.rules import examine
from workflows.verdicts import judged, verdict

router = APIRouter(prefix="/v1/rules", tags=["rules"])

_CLEARED = ("reason", "expires_after_seconds", "on_expiry", "expires_at")


@router.post("", response_model=Rule)
async def create_rule(exchange: CurrentExchange, wanted: RuleCreate = reads(RuleCreate)) -> Response:
    """Make a rule; it holds from the next call on, also of turns that run."""
    exchange.require_decider("make a rule")
    content = RuleContent.model_validate(dict(wanted))

    async def effect(connection: Connection) -> Rule:
        return _wire(await rules.create(connection, exchange.workspace_id, content=content, by=exchange.key_id))

    return await exchange.once(effect)


@router.get("", response_model=Page[Rule])
async def list_rules(
    exchange: CurrentExchange,
    scope: Annotated[str | None, Query(max_length=128, description="Only the rules of this scope.")] = None,
    limit: LimitParam = DEFAULT_LIMIT,
    page: PageParam = None,
) -> Response:
    """List rules, those of a scope in the order in which they hold."""
    offset = decode(page, "rules").n or 0
    async with exchange.transaction() as connection:
        found = await rules.listing(connection, scope=scope, offset=offset, limit=limit + 1)
    following = encode(Cursor(of="rules", n=offset + limit)) if len(found) > limit else None
    return json_response(Page[Rule](data=[_wire(record) for record in found[:limit]], next_page=following))


@router.post("/evaluate", response_model=Evaluation)
async def evaluate_rules(exchange: CurrentExchange, wanted: RuleEvaluate = reads(RuleEvaluate)) -> Response:
    """Say what would be decided about a call of a session, of an agent or anywhere, and by which rule."""
    async with exchange.transaction() as connection:
        if wanted.session_id is not None:
            await sessions.last_seq(connection, wanted.session_id)
            tools, found = await judging.in_force(connection, wanted.session_id)
        else:
            tools = await _tools(connection, wanted.agent_id)
            found = await rules.in_force(connection, session_id=None, agent_id=wanted.agent_id)
        examination = examine(found, wanted.tool, wanted.input)
        ruling = examination.ruling
        rule = await rules.get(connection, ruling.rule.id) if ruling else None
    judgement = judged(tools, wanted.tool, examination)
    return json_response(
        Evaluation(
            verdict=judgement.verdict,
            decided_by="rule" if ruling else "policy",
            rule=_wire(rule) if rule else None,
            reason=judgement.reason,
            policy_verdict=verdict(tools, wanted.tool),
            passed=[PassedRule(rule_id=each.rule_id, because=each.because) for each in examination.passed],
        )
    )


@router.get("/{rule_id}", response_model=Rule)
async def get_rule(exchange: CurrentExchange, rule_id: str) -> Response:
    """Get a rule."""
    async with exchange.transaction() as connection:
        return json_response(_wire(await rules.get(connection, rule_id)))


@router.post("/{rule_id}", response_model=Rule)
async def update_rule(exchange: CurrentExchange, rule_id: str, wanted: RuleUpdate = reads(RuleUpdate)) -> Response:
    """Change a rule; what it says then holds from the next call on, also of turns that run."""
    exchange.require_decider("change a rule")

    async def effect(connection: Connection) -> Rule:
        content = _changed(await rules.lock(connection, rule_id), wanted)
        return _wire(await rules.replace(connection, rule_id, content, by=exchange.key_id))

    return await exchange.once(effect)


@router.delete("/{rule_id}", response_model=RuleDeleted)
async def delete_rule(exchange: CurrentExchange, rule_id: str) -> Response:
    """Delete a rule; it holds no more from the next call on, also of turns that run."""
    exchange.require_decider("delete a rule")
    async with exchange.transaction() as connection:
        await rules.delete(connection, rule_id)
    return json_response(RuleDeleted(id=rule_id))


async def _tools(connection: Connection, agent_id: str | None) -> list[dict[str, Any]]:
    if agent_id is None:
        return []
    agent = await agents.get(connection, agent_id)
    return [tool.model_dump() for tool in agent.definition.tools]


def _changed(before: RuleRecord, wanted: RuleUpdate) -> RuleContent:
    given = {
        name: getattr(wanted, name)
        for name in wanted.model_fields_set
        if name in _CLEARED or getattr(wanted, name) is not None
    }
    content = RuleContent.model_validate({**dict(before), **given})
    for name in ("expires_after_seconds", "on_expiry"):
        if content.verdict != "ask" and getattr(content, name) is not None:
            raise refused(
                name, "goes with the verdict 'ask' only", next_step="set it null together with the new verdict"
            )
    return content


def _wire(record: RuleRecord) -> Rule:
    arguments = [each.model_dump(mode="json", exclude_unset=True) for each in record.arguments]
    return Rule(**record.model_dump(exclude={"arguments"}), arguments=arguments)
