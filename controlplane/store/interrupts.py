"""How those who run something for a session hear at once that a person wants it stopped."""

from typing import TYPE_CHECKING

from controlplane.store.listening import listen
from controlplane.store.pool import Connection

if TYPE_CHECKING:
    from workflows.interrupts import Interrupts

CHANNEL = "bulkhead_interrupts"
"""Notified on commit with ``session_id seq`` of a `user.interrupt`."""


async def announce(connection: Connection, session_id: str, seq: int) -> None:
    """Tell the workers when the caller's transaction commits."""
    await connection.execute("SELECT pg_notify(%s, %s)", (CHANNEL, f"{session_id} {seq}"))


async def hear(url: str, interrupts: "Interrupts") -> None:
    """Pass on what is announced until cancelled; what is lost comes by way of Temporal."""

    def heard(_: str, payload: str) -> None:
        session_id, _, seq = payload.partition(" ")
        interrupts.heard(session_id, int(seq))

    await listen(url, [CHANNEL], heard, connected=lambda: None)
