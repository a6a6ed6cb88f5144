"""The verdict on a tool call, from the session's agent and the rules as they are in the caller's transaction."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from controlplane.store import rules
from controlplane.store.events import storable
from controlplane.store.pool import Connection, one
from harness_adapters.contract import ToolUse
from workflows.rules import Rule
from workflows.verdicts import Judgement, judge

DEFAULT_EXPIRY_SECONDS = 7 * 24 * 3600


class Judge:
    """Judges calls; ``expiry_seconds``: how long a call waits for a person where no rule says."""

    def __init__(self, *, expiry_seconds: int = DEFAULT_EXPIRY_SECONDS):
        self._expiry_seconds = expiry_seconds

    async def judge(self, connection: Connection, session_id: str, uses: Sequence[ToolUse]) -> dict[str, Judgement]:
        """Return the verdict on each call, by its id."""
        if not uses:
            return {}
        tools, found = await in_force(connection, session_id)
        return {use.event_id: self._with_expiry(judge(tools, found, use.name, storable(use.input))) for use in uses}

    def _with_expiry(self, judgement: Judgement) -> Judgement:
        if judgement.verdict != "ask":
            return judgement
        return replace(
            judgement,
            expires_after_seconds=judgement.expires_after_seconds or self._expiry_seconds,
            on_expiry=judgement.on_expiry or "deny",
        )


async def in_force(connection: Connection, session_id: str) -> tuple[Sequence[Mapping[str, Any]], list[Rule]]:
    """Return the tools of a session's agent, as it is now, and the rules that hold, in order."""
    session = await one(
        connection,
        "SELECT agent_id, agent -> 'tools' AS tools FROM sessions WHERE id = %(id)s",
        {"id": session_id},
    )
    agent_id = session["agent_id"] if session else None
    found = await rules.in_force(connection, session_id=session_id, agent_id=agent_id)
    return (session or {}).get("tools") or [], found
