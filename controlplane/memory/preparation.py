"""Preparing texts in this process: what the part ``memory`` does for all others."""

import asyncio
import math
import time
from collections.abc import Sequence

import httpx
import structlog

from controlplane.errors import UnavailableError
from controlplane.memory.embedding import Embedder, text_of
from controlplane.memory.preparing import Draft, Prepared, unavailable
from controlplane.redaction.scrub import scrub
from controlplane.store import memory_vectors, recognition
from controlplane.store.memory_vectors import Model, Pending, Vector
from controlplane.store.pool import ALL_WORKSPACES, Database
from controlplane.store.recognition import Known
from controlplane.vault.keyring import Keyring

_log = structlog.get_logger(__name__)

_LARGEST, _SMALLEST = 1e15, 1e-15
"""Of a vector's values: their squares are added in four bytes each."""
_MOST_DIMENSIONS = 16_000
"""Of pgvector's type."""
_PROBE = "dimension"
_MODEL_SECONDS = 1.0
"""How long it is believed which model is searched with."""


class LocalPreparer:
    """A `Preparer` that has the rules, the models and the key of the secrets' hashes itself.

    ``embedders``: by model; the first is the one that is wanted. Without any, memories are found by words alone.
    """

    def __init__(self, database: Database, keyring: Keyring, embedders: Sequence[Embedder]):
        self._database = database
        self._keyring = keyring
        self._embedders = {each.model: each for each in embedders}
        self.wanted = embedders[0].model if embedders else None
        self._active: tuple[float, Model | None] = (0.0, None)

    def has(self, model: str) -> bool:
        """Say whether vectors of a model can be made at all."""
        return model in self._embedders

    async def prepare(self, workspace_id: str, drafts: Sequence[Draft]) -> list[Prepared]:
        """See `Preparer.prepare`."""
        known = await self._known(workspace_id)
        cleaned = await asyncio.to_thread(_scrubbed, drafts, known)
        vectors = await self.vectors([text_of(d.path, c.content) for d, c in zip(drafts, cleaned, strict=True)])
        pairs = zip(cleaned, vectors, strict=True)
        return [each.model_copy(update={"vector": vector}) for each, vector in pairs]

    async def question(self, workspace_id: str, text: str) -> Vector | None:
        """See `Preparer.question`."""
        known = await self._known(workspace_id)
        clean = await asyncio.to_thread(scrub, text, key=known.key, known=known.marks)
        return (await self.vectors([clean.text]))[0]

    async def vectors(self, texts: Sequence[str], *, model: str | None = None) -> Sequence[Vector | None]:
        """Return vectors of a model, else of the one that is searched with; None where it cannot be had now."""
        active = await self._searched()
        name = model or (active.model if active else self.wanted)
        found = self._embedders.get(name or "")
        if found is None or not texts:
            return [None] * len(texts)
        try:
            values = await found.embed(texts)
        except (httpx.HTTPError, ValueError) as error:
            # What went over the wire may quote the texts, or carry a key in its address.
            _log.warning("embedding_failed", model=found.model, cause=type(error).__name__)
            return [None] * len(texts)
        usable = [each if _is_usable(each) else [] for each in values]
        dimensions = [len(each) for each in usable if each]
        usual = active.dimension if active and active.model == found.model else next(iter(dimensions), 0)
        if len(dimensions) < len(usable) or set(dimensions) != {usual}:
            _log.warning("embedding_odd", model=found.model, usual=usual)
        return [Vector(model=found.model, values=each) if each and len(each) == usual else None for each in usable]

    async def close(self) -> None:
        """Close the connections of the models."""
        for each in self._embedders.values():
            await each.close()

    async def fill(self, model: str, *, limit: int) -> int:
        """Give versions that lack one their vector of a model; return how many there were.

        Raises `UnavailableError` while the model cannot be had. A text that it refuses keeps none from its vector.
        """
        async with self._database.transaction(ALL_WORKSPACES) as connection:
            lacking = await memory_vectors.lacking(connection, model, limit=limit)
        await self._fill(lacking, model)
        return len(lacking)

    async def probe(self, model: str) -> Vector:
        """Return the vector of a harmless text; raises `UnavailableError` if the model gives none for that either."""
        [vector] = await self.vectors([_PROBE], model=model)
        if vector is None:
            raise UnavailableError(f"no vectors of {model!r} can be had now", code="embedding_unavailable")
        return vector

    async def _fill(self, lacking: Sequence[Pending], model: str) -> None:
        """Give some versions their vectors; what got none is asked for in smaller parts, at last by itself."""
        found = await self.vectors([text_of(each.path, each.content) for each in lacking], model=model)
        left: list[Pending] = []
        for pending, vector in zip(lacking, found, strict=True):
            if vector is None:
                left.append(pending)
            else:
                await self._put(pending, vector)
        if not left:
            return
        await self.probe(model)
        if len(lacking) == 1:
            async with self._database.transaction(left[0].workspace_id) as connection:
                await memory_vectors.refused(connection, left[0], model)
            return
        half = (len(left) + 1) // 2
        for part in (left[:half], left[half:]):
            if part:
                await self._fill(part, model)

    async def _put(self, pending: Pending, vector: Vector) -> None:
        async with self._database.transaction(pending.workspace_id) as connection:
            await memory_vectors.put(
                connection,
                vector,
                version_id=pending.version_id,
                store_id=pending.store_id,
                workspace_id=pending.workspace_id,
            )

    async def _searched(self) -> Model | None:
        asked_at, model = self._active
        if model is None or time.monotonic() - asked_at > _MODEL_SECONDS:
            async with self._database.transaction(ALL_WORKSPACES) as connection:
                model = await memory_vectors.active(connection)
            self._active = (time.monotonic(), model)
        return model

    async def _known(self, workspace_id: str) -> Known:
        async with self._database.transaction(workspace_id) as connection:
            try:
                return await recognition.known(connection, workspace_id, keyring=self._keyring)
            except UnavailableError as error:
                raise unavailable() from error


def _is_usable(values: Sequence[float]) -> bool:
    """Say whether Postgres can keep a vector and compare it with others."""
    largest = max((abs(value) for value in values), default=0.0)
    return all(map(math.isfinite, values)) and _SMALLEST < largest < _LARGEST and len(values) <= _MOST_DIMENSIONS


def _scrubbed(drafts: Sequence[Draft], known: Known) -> list[Prepared]:
    found: list[Prepared] = []
    for draft in drafts:
        content = scrub(draft.content, key=known.key, known=known.marks)
        fields = {"path": [draft.path], **draft.beside}
        secret_in = next((field for field, texts in fields.items() if _has_secret(texts, known)), None)
        found.append(Prepared(content=content.text, redacted=list(content.kinds), secret_in=secret_in))
    return found


def _has_secret(texts: Sequence[str], known: Known) -> bool:
    return any(scrub(text, key=known.key, known=known.marks).kinds for text in texts)
