"""The secret from which the proxy derives a session's certificate authority: random, wrapped by a master key."""

from controlplane.store.pool import Connection, one
from controlplane.store.sessions import unknown
from controlplane.vault import cipher
from controlplane.vault.cipher import Place
from controlplane.vault.keyring import Keyring, Wrapped


async def seed(connection: Connection, session_id: str, *, keyring: Keyring) -> bytes:
    """Return a session's 32 bytes, made at the first call; raises `NotFoundError` for an unknown session."""
    session = await one(connection, "SELECT workspace_id FROM sessions WHERE id = %(id)s", {"id": session_id})
    if session is None:
        raise unknown(session_id)
    place = seed_place(session["workspace_id"], session_id)
    found = await _stored(connection, session_id)
    if found is None:
        wrapped = keyring.wrap(cipher.new_key(), place)
        await connection.execute(
            "INSERT INTO session_authorities (session_id, workspace_id, master_key_id, wrapped_seed)"
            " VALUES (%(id)s, %(workspace_id)s, %(master_key_id)s, %(wrapped)s) ON CONFLICT DO NOTHING",
            {"id": session_id, "workspace_id": session["workspace_id"], **wrapped.model_dump()},
        )
        found = await _stored(connection, session_id) or wrapped
    return keyring.unwrap(found, place)


def seed_place(workspace_id: str, session_id: str) -> Place:
    """What a session's wrapped seed belongs to."""
    return ("authority seed", workspace_id, session_id)


async def _stored(connection: Connection, session_id: str) -> Wrapped | None:
    row = await one(
        connection,
        "SELECT master_key_id, wrapped_seed AS wrapped FROM session_authorities WHERE session_id = %(id)s",
        {"id": session_id},
    )
    return Wrapped.model_validate(row) if row else None
