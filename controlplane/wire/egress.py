"""What a session's sandboxes sent out, on the wire."""

from datetime import datetime
from typing import Literal

from pydantic import Field

from controlplane.wire.common import Answer
from sandbox.egress.contract import Verdict


class EgressDecision(Answer):
    """One decision of the egress proxy, or what became of it. Names, never values."""

    type: Literal["egress_decision"] = "egress_decision"
    id: str
    seq: int = Field(description="From 1, rising by one in each session.")
    session_id: str
    workspace_id: str
    exchange_id: str = Field(description="The same for the decision to allow something and for its outcome.")
    ended: bool = Field(
        description="False: allowed, and recorded before it happened. True: its outcome, or a refusal."
    )
    sandbox_id: str
    turn_id: str | None
    tool_use_id: str | None = Field(description="The tool call that ran in the sandbox, if it was one alone.")
    credential: str | None = Field(description="The name of the credential that was used or asked for.")
    method: str
    host: str
    port: int
    path: str | None = Field(description="Without the query; null for what is not decrypted.")
    verdict: Verdict
    reason: str = Field(description="A stable code.")
    message: str = Field(description="What the model was told, if something was refused.")
    status: int | None = Field(description="What the host answered.")
    bytes_up: int
    bytes_down: int
    duration_us: int = Field(description="Microseconds.")
    created_at: datetime
    previous_hash: str = Field(description="The hash of the decision before; zeros for the first.")
    hash: str = Field(description="SHA-256 of the previous hash and of this decision as a JSON array.")


class SessionEgress(Answer):
    """Whether the session's sandboxes may reach anything at all."""

    type: Literal["session_egress"] = "session_egress"
    session_id: str
    revoked_at: datetime | None
