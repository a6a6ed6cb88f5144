"""When something may next be asked of a front door's service, whichever process asks it."""

from controlplane.store.frontdoors import FrontDoorRecord
from controlplane.store.pool import Connection, one


async def reserve(connection: Connection, door: FrontDoorRecord, name: str, *, pause_seconds: float) -> float:
    """Take the next slot and return in how many seconds it comes; whoever asks later, in whatever process, gets a
    later one."""
    row = await one(
        connection,
        "INSERT INTO front_door_slots AS s (front_door_id, name, workspace_id, next_at)"
        " VALUES (%(door)s, %(name)s, %(ws)s, clock_timestamp() + %(pause)s * interval '1 second')"
        " ON CONFLICT (front_door_id, name) DO UPDATE"
        " SET next_at = greatest(s.next_at, clock_timestamp()) + %(pause)s * interval '1 second'"
        " RETURNING extract(epoch FROM next_at - clock_timestamp())::float8 - %(pause)s AS wait",
        {"door": door.id, "name": name, "ws": door.workspace_id, "pause": pause_seconds},
    )
    return max(0.0, row["wait"]) if row else 0.0


async def postpone(connection: Connection, door: FrontDoorRecord, name: str, *, seconds: float) -> None:
    """Give no slot before ``seconds`` from now: the service said so."""
    await connection.execute(
        "INSERT INTO front_door_slots AS s (front_door_id, name, workspace_id, next_at)"
        " VALUES (%(door)s, %(name)s, %(ws)s, clock_timestamp() + %(seconds)s * interval '1 second')"
        " ON CONFLICT (front_door_id, name) DO UPDATE SET next_at = greatest(s.next_at, excluded.next_at)",
        {"door": door.id, "name": name, "ws": door.workspace_id, "seconds": seconds},
    )
