"""What people do at a front door, as the ledger is given it, and a front door to do it at."""

import itertools
from datetime import datetime

from controlplane.frontdoors.contract import Crossed, Inbound, Pressed, Said
from controlplane.frontdoors.policy import Rules
from controlplane.store import front_door_inbox, front_door_threads, frontdoors
from controlplane.store.front_door_threads import DoorThread
from controlplane.store.frontdoors import FrontDoorRecord
from controlplane.store.pool import Connection

WORKSPACE = "wrkspc_default"

_numbers = itertools.count(1)


def inbound(
    what: Said | Pressed | Crossed,
    *,
    place: str = "C001",
    thread: str = "1.0",
    message: str = "1.0",
    person: str = "U01ALICE",
    happened_at: datetime | None = None,
) -> Inbound:
    """Return something that a person did, told for the first time."""
    return Inbound(
        delivery=f"Ev{next(_numbers)}",
        place=place,
        thread=thread,
        message=message,
        person=person,
        happened_at=happened_at,
        what=what,
    )


async def make_door(connection: Connection) -> FrontDoorRecord:
    """Make a front door whose vault is archived: nobody opens it."""
    await connection.execute(
        "INSERT INTO vaults (id, workspace_id, display_name, archived_at) VALUES ('vlt_1', %s, 'tokens', now())",
        (WORKSPACE,),
    )
    return await frontdoors.create(
        connection, WORKSPACE, name="door", vault_id="vlt_1", rules=Rules(environment_id="env_1")
    )


async def make_thread(connection: Connection, door: FrontDoorRecord, *, thread: str = "1.0") -> DoorThread:
    """Have somebody begin a thread who is let in."""
    said = Said(text="hello", addressed=True)
    await front_door_inbox.receive(connection, door, inbound(said, thread=thread, message=thread))
    found = await front_door_threads.at(connection, door.id, "C001", thread)
    assert found is not None
    await front_door_threads.let_in(connection, found)
    return found.model_copy(update={"let_in": True})
