"""Vectors of memories' versions, and which model's are searched with."""

from collections.abc import Sequence
from datetime import timedelta

from pydantic import BaseModel, ConfigDict

from controlplane.store.pool import Connection, one, rows

PENDING = "bulkhead_memory_pending"
"""Notified when a version is committed that has no vector yet."""
_ASKED_AGAIN = timedelta(hours=1)
"""After so long a model is asked again for what it gave no vector for."""


class Vector(BaseModel):
    """What a text means, as a model has it."""

    model_config = ConfigDict(frozen=True)

    model: str
    values: list[float]

    @property
    def text(self) -> str:
        """The vector as Postgres reads it."""
        return "[" + ",".join(f"{value:.7g}" for value in self.values) + "]"


class Model(BaseModel):
    """A model whose vectors are searched with, and how many values each has."""

    model_config = ConfigDict(frozen=True)

    model: str
    dimension: int


class Pending(BaseModel):
    """A version that lacks a vector of some model."""

    model_config = ConfigDict(frozen=True)

    version_id: str
    workspace_id: str
    store_id: str
    path: str
    content: str


async def put(connection: Connection, vector: Vector, *, version_id: str, store_id: str, workspace_id: str) -> None:
    """Keep a version's vector; nothing happens if it has one of that model, was redacted or is gone."""
    await connection.execute(
        "INSERT INTO memory_vectors (version_id, model, dimension, workspace_id, store_id, embedding, indexed)"
        " SELECT v.id, %(model)s, %(dimension)s, %(workspace_id)s, %(store_id)s, %(vector)s::vector, s.indexed"
        "   FROM memory_versions v JOIN memory_stores s ON s.id = v.store_id"
        "  WHERE v.id = %(version_id)s AND v.content IS NOT NULL"
        # What is being redacted is waited for, and then looked at again.
        "    FOR SHARE OF v ON CONFLICT DO NOTHING",
        {
            "model": vector.model,
            "dimension": len(vector.values),
            "workspace_id": workspace_id,
            "store_id": store_id,
            "vector": vector.text,
            "version_id": version_id,
        },
    )


async def active(connection: Connection) -> Model | None:
    """Return the model whose vectors are searched with; None before the first was chosen."""
    row = await one(connection, "SELECT model, dimension FROM memory_models WHERE active", {})
    return Model.model_validate(row) if row else None


async def lacking(connection: Connection, model: str, *, limit: int) -> list[Pending]:
    """Return versions that have no vector of a model, the newest first; not those that it refused a while ago."""
    found = await rows(
        connection,
        "SELECT v.id AS version_id, v.workspace_id, v.store_id, v.path, v.content FROM memory_versions v"
        " WHERE v.content IS NOT NULL AND v.operation <> 'deleted' AND NOT EXISTS"
        " (SELECT FROM memory_vectors m WHERE m.version_id = v.id AND m.model = %(model)s)"
        " AND NOT EXISTS (SELECT FROM memory_vectorless w WHERE w.version_id = v.id AND w.model = %(model)s"
        "   AND w.refused_at > clock_timestamp() - %(again)s)"
        " ORDER BY v.created_at DESC, v.id DESC LIMIT %(limit)s",
        {"model": model, "limit": limit, "again": _ASKED_AGAIN},
    )
    return [Pending.model_validate(row) for row in found]


async def refused(connection: Connection, pending: Pending, model: str) -> None:
    """Note that a model gives no vector for a version, so that the others do not wait for it."""
    await connection.execute(
        "INSERT INTO memory_vectorless (version_id, model, workspace_id)"
        " SELECT id, %s, workspace_id FROM memory_versions WHERE id = %s"
        " ON CONFLICT (version_id, model) DO UPDATE SET refused_at = excluded.refused_at",
        (model, pending.version_id),
    )


async def to_index(connection: Connection, *, larger_than: int) -> list[tuple[str, str]]:
    """Return workspace and id of the stores whose vectors belong into the index and are not all there."""
    found = await rows(
        connection,
        "SELECT workspace_id, id FROM memory_stores WHERE memories > %(memories)s AND NOT indexed",
        {"memories": larger_than},
    )
    return [(row["workspace_id"], row["id"]) for row in found]


async def index_some(connection: Connection, store_id: str, *, limit: int) -> int:
    """Put some of a store's vectors into the index, and return how many."""
    done = await connection.execute(
        "UPDATE memory_vectors SET indexed = true WHERE (version_id, model) IN"
        " (SELECT version_id, model FROM memory_vectors WHERE store_id = %s AND NOT indexed LIMIT %s)",
        (store_id, limit),
    )
    return done.rowcount


async def index_rest(connection: Connection, store_id: str) -> None:
    """Put what is left of a locked store's vectors into the index, where all that come later go too."""
    await connection.execute(
        "UPDATE memory_vectors SET indexed = true WHERE store_id = %s AND NOT indexed", (store_id,)
    )
    await connection.execute("UPDATE memory_stores SET indexed = true WHERE id = %s", (store_id,))


async def activate(connection: Connection, model: str, *, dimension: int) -> None:
    """Search with another model's vectors from now on; those of it that have another dimension are made again."""
    await connection.execute("SELECT pg_advisory_xact_lock(hashtext('memory_models'))")
    await connection.execute("UPDATE memory_models SET active = false WHERE active AND model <> %s", (model,))
    await connection.execute(
        "INSERT INTO memory_models (model, dimension, active) VALUES (%s, %s, true)"
        " ON CONFLICT (model) DO UPDATE SET active = true, dimension = excluded.dimension",
        (model, dimension),
    )
    await connection.execute("DELETE FROM memory_vectors WHERE model = %s AND dimension <> %s", (model, dimension))


async def drop_others(connection: Connection, models: Sequence[str], *, limit: int) -> int:
    """Remove vectors of models other than these, some at a time; return how many were removed."""
    gone = await connection.execute(
        "DELETE FROM memory_vectors WHERE (version_id, model) IN"
        " (SELECT version_id, model FROM memory_vectors WHERE model <> ALL(%s) LIMIT %s)",
        (list(models), limit),
    )
    await connection.execute("DELETE FROM memory_vectorless WHERE model <> ALL(%s)", (list(models),))
    return gone.rowcount
