"""Which stores a session has, what its model is shown of them, and whether it has read what nobody vouches for."""

from collections.abc import Sequence
from dataclasses import dataclass

from controlplane.errors import InvalidRequestError, NotFoundError
from controlplane.memory.paths import slug
from controlplane.memory.rendering import Attached, Shown
from controlplane.store import memories, memory_stores
from controlplane.store.memories import Author, MemoryRecord
from controlplane.store.memory_stores import StoreRecord
from controlplane.store.pool import Connection, one, rows
from controlplane.store.resources import StoreMount
from harness_adapters.toolset import MEMORY_TOOLS, PROVISION

MOUNT_ROOT = "/mnt/memory"
_MOST_BLOCKS = 200
"""Far more than a prompt has room for; the rest is counted."""


@dataclass(frozen=True)
class Owners:
    """Whose memory stores a session may have, beside those that are shared."""

    session_id: str
    agent_id: str
    user_id: str | None


async def attached(connection: Connection, session_id: str) -> list[Attached]:
    """Return the stores of a session in the order in which they were attached; not those that are gone."""
    found = await rows(
        connection,
        "SELECT r.config, s.access, s.archived_at FROM session_resources r"
        " JOIN memory_stores s ON s.id = r.config ->> 'memory_store_id'"
        " WHERE r.session_id = %(id)s AND r.type = 'memory_store' ORDER BY r.created_at, r.id",
        {"id": session_id},
    )
    mounts = [(StoreMount.model_validate(row["config"]), row) for row in found]
    return [
        Attached(
            store_id=mount.memory_store_id,
            name=mount.mount_path.rpartition("/")[2],
            writable=mount.access == "read_write" and row["access"] == "read_write" and row["archived_at"] is None,
            description=mount.description,
            instructions=mount.instructions or "",
        )
        for mount, row in mounts
    ]


async def mount_of(
    connection: Connection,
    store_id: str,
    owners: Owners,
    *,
    access: str | None,
    instructions: str | None,
    taken: Sequence[str],
    field: str,
) -> StoreMount:
    """Return how a store is attached to a session; raises if it is not there, archived, or another's."""
    try:
        store = await memory_stores.get(connection, store_id)
    except NotFoundError as error:
        raise memory_stores.unknown(store_id, field=field) from error
    wanted = {
        "agent": owners.agent_id,
        "user": owners.user_id,
        "session": owners.session_id,
        "shared": store.owner_id,
    }
    if wanted[store.owner_kind] != store.owner_id:
        # What another one owns is not told from what is not there.
        raise memory_stores.unknown(store_id, field=field)
    memory_stores.require_unarchived(store, field=field)
    name = slug(store.name)
    path = next(
        candidate
        for number in range(1, len(taken) + 2)
        if (candidate := f"{MOUNT_ROOT}/{name}" + (f"-{number}" if number > 1 else "")) not in taken
    )
    if access == "read_write" and store.access == "read_only":
        raise InvalidRequestError(
            "the store is read-only",
            code="memory_store_read_only",
            field=field,
            next_step="attach it with access 'read_only', or change the store",
        )
    return StoreMount(
        memory_store_id=store.id,
        access="read_only" if access == "read_only" or store.access == "read_only" else "read_write",
        name=store.name,
        description=store.description,
        instructions=instructions,
        mount_path=path,
    )


async def blocks(connection: Connection, stores: Sequence[Attached]) -> tuple[list[Shown], int]:
    """Return the blocks of a session's stores, and how many more there are than a prompt could show."""
    names = {store.store_id: store.name for store in stores}
    found = await memories.blocks_of(connection, list(names), limit=_MOST_BLOCKS)
    count = await memories.count_blocks(connection, list(names)) if len(found) == _MOST_BLOCKS else len(found)
    return [shown(memory, names[memory.store_id]) for memory in found], count - len(found)


async def note_untrusted(connection: Connection, session_id: str) -> None:
    """Note that a session is shown what nobody vouches for: it has read that from now on, whatever becomes of it."""
    await connection.execute(
        "UPDATE sessions SET read_untrusted_at = clock_timestamp() WHERE id = %s AND read_untrusted_at IS NULL",
        (session_id,),
    )


async def is_news(connection: Connection, session_id: str, memory: MemoryRecord) -> bool:
    """Say whether a memory got what it says now since a session began, and not from that session."""
    row = await one(
        connection,
        "SELECT EXISTS (SELECT FROM memory_versions v JOIN sessions s ON s.id = %(session)s WHERE v.id = %(version)s"
        " AND v.created_at > s.created_at AND v.created_by ->> 'session_id' IS DISTINCT FROM s.id) AS is_news",
        {"session": session_id, "version": memory.version_id},
    )
    return bool(row and row["is_news"])


async def first_words(connection: Connection, session_id: str) -> str:
    """Return the text of the first message of a session."""
    row = await one(
        connection,
        "SELECT payload FROM events WHERE session_id = %(id)s AND type = 'user.message' AND processed_at IS NOT NULL"
        " ORDER BY position, seq LIMIT 1",
        {"id": session_id},
    )
    content = (row["payload"].get("content") or []) if row else []
    return "\n".join(block["text"] for block in content if block["type"] == "text")


def shown(memory: MemoryRecord, store: str) -> Shown:
    """Return a memory as a prompt shows it."""
    return Shown(
        store=store,
        path=memory.path,
        memory_type=memory.memory_type,
        version=memory.version,
        content=memory.content,
        untrusted=memory.untrusted,
    )


async def author(connection: Connection, session_id: str, *, tool_use_id: str, untrusted: bool = False) -> Author:
    """Return who writes when a tool call of a session does.

    ``untrusted``: what is written came out of a sandbox. It is so too where the session has read what did, or what a
    client's tool or an untrusted memory said: nobody can say what of it is in the words of the model.
    """
    row = await one(
        connection,
        # The model is the one that asked for the call: another may have stood in for the turn's.
        "SELECT c.turn_id, c.name, coalesce(r.model, t.models ->> 0) AS model, s.user_id FROM tool_calls c"
        " JOIN turns t ON t.id = c.turn_id JOIN sessions s ON s.id = c.session_id"
        " LEFT JOIN events e ON e.id = c.id LEFT JOIN model_requests r ON r.id = e.internal ->> 'request_id'"
        " WHERE c.id = %(id)s",
        {"id": tool_use_id},
    )
    where = {**(row or {}), "session_id": session_id, "tool_use_id": tool_use_id}
    where["tool"] = where.pop("name", None)
    return Author(
        actor={"type": "session_actor", "session_id": session_id},
        provenance={name: value for name, value in where.items() if value is not None},
        untrusted=untrusted or await _has_read_what_nobody_vouches_for(connection, session_id, tool_use_id),
    )


async def _has_read_what_nobody_vouches_for(connection: Connection, session_id: str, tool_use_id: str) -> bool:
    row = await one(
        connection,
        "SELECT EXISTS (SELECT FROM tool_calls c LEFT JOIN events e ON e.id = c.result_event_id"
        "   WHERE c.session_id = %(session)s AND c.id <> %(call)s"
        "     AND c.state IN ('dispatched', 'confirmed', 'unknown')"
        "     AND c.name <> %(provision)s AND (c.name <> ALL(%(memory)s) OR c.verdict = 'client'"
        "       OR e.payload -> 'tool_call' ->> 'untrusted' = 'true'))"
        " OR EXISTS (SELECT FROM sessions WHERE id = %(session)s AND read_untrusted_at IS NOT NULL)"
        " OR EXISTS (SELECT FROM session_resources r JOIN memories m ON m.store_id = r.config ->> 'memory_store_id'"
        "   WHERE r.session_id = %(session)s AND r.type = 'memory_store' AND m.memory_type IS NOT NULL"
        "     AND m.untrusted)"
        " AS has",
        {
            "session": session_id,
            "call": tool_use_id,
            "provision": PROVISION,
            "memory": list(MEMORY_TOOLS),
        },
    )
    return bool(row and row["has"])


async def lock_writable(connection: Connection, store: Attached) -> StoreRecord:
    """Lock a session's store for writing; raises `InvalidRequestError` where the session may only read it."""
    if not store.writable:
        raise InvalidRequestError(
            f"the store {store.name!r} is read-only for this session",
            code="memory_store_read_only",
            field="store",
            next_step="write to another store",
        )
    return await memory_stores.lock(connection, store.store_id)
