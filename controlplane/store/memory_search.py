"""Finding memories: by meaning (pgvector) and by words (full text, or trigrams where none fits), in one ranking."""

import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, LiteralString

from psycopg.rows import DictRow
from pydantic import BaseModel, ConfigDict

from controlplane.memory.fusion import Fused, fused
from controlplane.store.memory_vectors import Vector
from controlplane.store.memory_versions import VersionRecord
from controlplane.store.pool import Connection, one, rows

MAX_QUERY_CHARACTERS = 2_000
MAX_HITS = 100
_CANDIDATES = 60
EXACT_UP_TO = 5_000
"""So many memories of a store are compared one by one: quick enough, and nothing depends on what others hold."""
_ROUGH_UP_TO = 5_000
"""In larger stores no misspelt word is looked for: each memory's pieces would have to be read."""
_MOST_ROUGH = 8
_MOST_MATCHES = 20_000

_SATURATION = 1.2
_LENGTH = 0.5
"""Okapi BM25's two parameters; memories are short, so that their length says little."""
_LEAST_SHARED = 0.6
"""Of the pieces of a word: one letter of seven may differ."""
_ROUGH_WEIGHT = 0.6
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)?")

_INDEXED: dict[int, LiteralString] = {
    256: "vector(256)",
    384: "vector(384)",
    768: "vector(768)",
    1024: "vector(1024)",
    1536: "vector(1536)",
}
"""The dimensions that have an index; others are compared one by one."""

_NARROWED: LiteralString = """
       v.store_id = ANY(%(stores)s) AND v.operation <> 'deleted' AND v.content IS NOT NULL
   AND (%(types)s::text[] IS NULL OR v.memory_type = ANY(%(types)s))
   AND (%(prefix)s::text IS NULL OR starts_with(v.path, %(prefix)s))
   AND (%(after)s::timestamptz IS NULL OR v.held_from >= %(after)s)
   AND (%(before)s::timestamptz IS NULL OR v.held_from <= %(before)s)
   AND (%(author)s::text IS NULL OR v.created_by ->> 'session_id' = %(author)s
        OR v.created_by ->> 'api_key_id' = %(author)s OR v.provenance ->> 'user_id' = %(author)s)
   AND (%(trusted)s IS NOT TRUE OR NOT v.untrusted)"""
_HELD_NOW: LiteralString = " AND v.held_to IS NULL AND (v.expires_at IS NULL OR v.expires_at > clock_timestamp())"
_HELD_THEN: LiteralString = (
    " AND v.held_from <= %(as_of)s AND (v.held_to IS NULL OR v.held_to > %(as_of)s)"
    " AND (v.expires_at IS NULL OR v.expires_at > %(as_of)s)"
)


class Search(BaseModel):
    """What is looked for. ``as_of``: in what was kept at that time. ``author``: a session, an API key or a user."""

    model_config = ConfigDict(frozen=True)

    query: str
    limit: int = 10
    types: list[str] | None = None
    path_prefix: str | None = None
    as_of: datetime | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    author: str | None = None
    trusted_only: bool = False


class Hit(BaseModel):
    """What was found, and why. ``version``: what the memory said at the time that was asked for."""

    model_config = ConfigDict(frozen=True)

    version: VersionRecord
    memory_created_at: datetime
    superseded: bool
    score: float
    reason: str


async def search(
    connection: Connection, store_ids: Sequence[str], wanted: Search, *, vector: Vector | None, words: bool = True
) -> list[Hit]:
    """Return what fits best in some stores, the best first. Without a vector only words count."""
    totals = await one(
        connection,
        "SELECT coalesce(sum(memories), 0)::int AS memories, coalesce(sum(bytes), 0)::bigint AS bytes,"
        " coalesce(bool_and(indexed), false) AS indexed"
        " FROM memory_stores WHERE id = ANY(%(stores)s)",
        {"stores": list(store_ids)},
    )
    memories, size, indexed = (totals["memories"], totals["bytes"], totals["indexed"]) if totals else (0, 0, False)
    finder = _Finder(connection, list(store_ids), wanted, memories=memories, size_bytes=size)
    by_meaning = await finder.by_meaning(vector, indexed=indexed) if vector is not None else []
    by_words = await finder.by_words() if words else []
    ids = [*{each[0]: None for each in by_meaning}, *{each[0]: None for each in by_words}]
    if not ids:
        return []
    superseded = await finder.superseded(ids)
    return await _hits(connection, fused(by_meaning, by_words, superseded)[: wanted.limit], superseded)


class _Finder:
    def __init__(
        self, connection: Connection, store_ids: list[str], wanted: Search, *, memories: int, size_bytes: int
    ):
        self._connection = connection
        self._held: LiteralString = _HELD_NOW if wanted.as_of is None else _HELD_THEN
        self._query = wanted.query[:MAX_QUERY_CHARACTERS]
        self._memories = max(1, memories)
        self._usual_size = max(1.0, size_bytes / self._memories)
        self._parameters: dict[str, Any] = {
            "stores": store_ids,
            "types": wanted.types or None,
            "prefix": wanted.path_prefix or None,
            "as_of": wanted.as_of,
            "after": wanted.created_after,
            "before": wanted.created_before,
            "author": wanted.author,
            "trusted": wanted.trusted_only,
            "candidates": _CANDIDATES,
        }

    async def by_meaning(self, vector: Vector, *, indexed: bool) -> list[tuple[str, float]]:
        """Return versions with their similarity, the nearest first. ``indexed``: whether all are in an index."""
        parameters = {
            **self._parameters,
            "model": vector.model,
            "vector": vector.text,
            "dimension": len(vector.values),
        }
        kind: LiteralString = _INDEXED.get(len(vector.values), "vector")
        exact = not indexed or kind == "vector"
        of_model: LiteralString = (
            "m.model = %(model)s AND m.dimension = %(dimension)s AND m.store_id = ANY(%(stores)s)"
        )
        near: LiteralString = "m.embedding::" + kind + " <=> %(vector)s::" + kind
        if exact:
            found = await rows(
                self._connection,
                "WITH near AS MATERIALIZED (SELECT v.id, " + near + " AS distance FROM memory_vectors m"
                " JOIN memory_versions v ON v.id = m.version_id WHERE "
                + of_model
                + " AND "
                + _NARROWED
                + self._held
                + ") SELECT id, distance FROM near ORDER BY distance, id LIMIT %(candidates)s",
                parameters,
            )
        else:
            await self._connection.execute("SET LOCAL hnsw.iterative_scan = strict_order")
            found = await rows(
                self._connection,
                "SELECT v.id, " + near + " AS distance FROM memory_vectors m JOIN memory_versions v"
                " ON v.id = m.version_id WHERE m.indexed AND m.dimension = "
                + _number(kind)
                + " AND "
                + of_model
                + " AND "
                + _NARROWED
                + self._held
                + " ORDER BY "
                + near
                + " LIMIT %(candidates)s",
                parameters,
            )
        return [(row["id"], 1 - row["distance"]) for row in found if row["distance"] is not None]

    async def by_words(self) -> list[tuple[str, float, list[str]]]:
        """Return versions with a weight and the words that they share with the query, the best first."""
        words = list(dict.fromkeys(word.lower() for word in _WORD.findall(self._query)))[:64]
        if not words:
            return []
        asked = await rows(
            self._connection,
            "SELECT word, tsvector_to_array(to_tsvector('english', word)) AS lexemes"
            " FROM unnest(%(words)s::text[]) AS word",
            {"words": words},
        )
        lexemes = {lexeme: row["word"] for row in asked for lexeme in row["lexemes"]}
        if not lexemes:
            return []
        scores: dict[str, float] = defaultdict(float)
        shared: dict[str, list[str]] = defaultdict(list)
        found = await self._matches(list(lexemes))
        frequencies: dict[str, int] = defaultdict(int)
        for row in found:
            frequencies[row["lexeme"]] += 1
        most = 0.0
        for lexeme in lexemes:
            most += self._rarity(frequencies.get(lexeme, 0))
        for row in found:
            weight = self._rarity(frequencies[row["lexeme"]])
            scores[row["id"]] += weight * self._saturated(row["times"], row["size_bytes"])
            shared[row["id"]].append(lexemes[row["lexeme"]])
        unknown = [word for lexeme, word in lexemes.items() if lexeme not in frequencies and len(word) >= 4]
        for version_id, word, alike in await self._alike(unknown):
            scores[version_id] += _ROUGH_WEIGHT * alike * self._rarity(1)
            shared[version_id].append(f"~{word}")
        ranked = sorted(scores, key=lambda each: (-scores[each], each))[:_CANDIDATES]
        return [(each, scores[each] / most, shared[each]) for each in ranked]

    async def superseded(self, ids: list[str]) -> dict[str, str]:
        """Return by which path a version is superseded; what is untrusted supersedes only what is so too."""
        parameters = {"stores": self._parameters["stores"], "as_of": self._parameters["as_of"], "ids": ids}
        found = await rows(
            self._connection,
            "SELECT o.id, v.path FROM memory_versions v JOIN memory_versions o"
            "    ON o.store_id = v.store_id AND o.path = v.supersedes AND o.memory_id <> v.memory_id"
            " WHERE v.store_id = ANY(%(stores)s) AND v.supersedes IS NOT NULL AND v.operation <> 'deleted'"
            "   AND v.content IS NOT NULL AND o.id = ANY(%(ids)s)"
            "   AND (NOT v.untrusted OR (o.untrusted AND NOT EXISTS"
            "        (SELECT FROM memories p WHERE p.id = o.memory_id AND p.protected)))" + self._held,
            parameters,
        )
        return {row["id"]: row["path"] for row in found}

    async def _matches(self, lexemes: list[str]) -> list[DictRow]:
        quoted = " | ".join("'" + lexeme.replace("\\", "\\\\").replace("'", "''") + "'" for lexeme in lexemes)
        return await rows(
            self._connection,
            "SELECT v.id, u.lexeme, cardinality(u.positions) AS times, v.size_bytes"
            "  FROM memory_versions v, unnest(v.words) AS u"
            " WHERE v.words @@ %(asked)s::tsquery AND u.lexeme = ANY(%(lexemes)s) AND "
            + _NARROWED
            + self._held
            + " LIMIT %(most)s",
            {**self._parameters, "asked": quoted, "lexemes": lexemes, "most": _MOST_MATCHES},
        )

    async def _alike(self, words: list[str]) -> list[tuple[str, str, float]]:
        """Return versions with a word that is nearly one of these, which, and how much of it they share."""
        if not words or self._memories > _ROUGH_UP_TO:
            return []
        found = await rows(
            self._connection,
            "WITH asked AS (SELECT word, unnest(memory_trigrams(word)) AS piece"
            "                 FROM unnest(%(words)s::text[]) AS word),"
            " sizes AS (SELECT word, count(*)::float AS size FROM asked GROUP BY word)"
            " SELECT v.id, a.word, count(*) / s.size AS shared"
            "   FROM memory_versions v, unnest(v.trigrams) AS held (piece) JOIN asked a USING (piece)"
            "   JOIN sizes s USING (word) WHERE "
            + _NARROWED
            + self._held
            + " GROUP BY v.id, a.word, s.size HAVING count(*) >= %(least)s * s.size ORDER BY shared DESC, v.id"
            " LIMIT %(candidates)s",
            {**self._parameters, "words": words[:_MOST_ROUGH], "least": _LEAST_SHARED},
        )
        return [(row["id"], row["word"], row["shared"]) for row in found]

    def _rarity(self, frequency: int) -> float:
        return math.log(1 + (self._memories - min(frequency, self._memories) + 0.5) / (frequency + 0.5))

    def _saturated(self, times: int, size_bytes: int) -> float:
        length = 1 - _LENGTH + _LENGTH * size_bytes / self._usual_size
        return times * (_SATURATION + 1) / (times + _SATURATION * length)


def _number(kind: LiteralString) -> LiteralString:
    return kind.removeprefix("vector(").removesuffix(")")


async def _hits(connection: Connection, ranked: Sequence[Fused], superseded: Mapping[str, str]) -> list[Hit]:
    found = await rows(
        connection,
        "SELECT v.*, coalesce((SELECT min(f.held_from) FROM memory_versions f WHERE f.memory_id = v.memory_id),"
        " v.held_from) AS memory_created_at FROM memory_versions v WHERE v.id = ANY(%(ids)s)",
        {"ids": [each.version_id for each in ranked]},
    )
    by_id = {row["id"]: row for row in found}
    return [_hit(each, by_id[each.version_id], superseded) for each in ranked if each.version_id in by_id]


def _hit(found: Fused, row: DictRow, superseded: Mapping[str, str]) -> Hit:
    version = VersionRecord.model_validate(row)
    # What is untrusted may only say so.
    supersedes = version.supersedes and (not version.untrusted or version.path in superseded.values())
    return Hit(
        version=version,
        memory_created_at=row["memory_created_at"],
        superseded=version.id in superseded,
        score=found.score,
        reason=found.reason + (f"; supersedes {version.supersedes}" if supersedes else ""),
    )
