"""How well search does on a labelled set: recall@5 and MRR@10 by kind of question, of each half and of both."""

import json
from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from controlplane.api.memory_search import imported
from controlplane.memory.preparing import Draft
from controlplane.store import memory_search, memory_stores
from controlplane.store.memories import Author
from controlplane.store.memory_search import Search
from controlplane.store.memory_stores import StoreRecord
from controlplane.wire.memory import ImportedMemory
from tests.support.memory import Mind

FOLDER = Path(__file__).parent
By = Literal["meaning", "words", "both"]


@dataclass(frozen=True)
class Score:
    """Of one kind of question: how many, recall@5, MRR@10."""

    questions: int
    recall: float
    mrr: float


def lines(name: str) -> list[dict[str, Any]]:
    """Return the objects of a file of JSON lines."""
    return [json.loads(line) for line in (FOLDER / name).read_text().splitlines()]


async def filled(mind: Mind) -> StoreRecord:
    """Return a store with the memories of the set."""
    store = await mind.store(name="quality")
    wanted = [ImportedMemory.model_validate(line) for line in lines("memories.jsonl")]
    prepared = await mind.preparer.prepare(mind.workspace_id, [Draft(path=w.path, content=w.content) for w in wanted])
    async with mind.database.transaction(mind.workspace_id) as connection:
        locked = await memory_stores.lock(connection, store.id)
        await imported(connection, locked, wanted, prepared, Author(is_person=True))
    return store


async def measured(mind: Mind, store: StoreRecord, by: By) -> dict[str, Score]:
    """Return the scores by kind of question, and of ``all``."""
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for question in lines("questions.jsonl"):
        as_of = datetime.fromisoformat(question["as_of"]) if question["as_of"] else None
        wanted = Search(query=question["query"], limit=10, as_of=as_of)
        vector = None if by == "words" else await mind.preparer.question(mind.workspace_id, question["query"])
        async with mind.database.transaction(mind.workspace_id) as connection:
            hits = await memory_search.search(connection, [store.id], wanted, vector=vector, words=by != "meaning")
        paths = [hit.version.path for hit in hits]
        relevant = question["relevant"]
        recall = sum(path in paths[:5] for path in relevant) / len(relevant)
        rank = next((place for place, path in enumerate(paths, start=1) if path in relevant), None)
        for kind in (question["kind"], "all"):
            found[kind].append((recall, 1 / rank if rank else 0.0))
    return {
        kind: Score(len(each), sum(r for r, _ in each) / len(each), sum(m for _, m in each) / len(each))
        for kind, each in found.items()
    }
