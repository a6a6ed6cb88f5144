"""Hybrid search against each of its halves, on the labelled set."""

import pytest

from tests.quality.memory.measuring import By, Score, filled, lines, measured
from tests.support.memory import Mind


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_both_halves_together_beat_either_alone(mind: Mind):
    assert len(lines("memories.jsonl")) >= 300 and len(lines("questions.jsonl")) >= 120
    store = await filled(mind)
    found: dict[By, dict[str, Score]] = {}
    for by in ("meaning", "words", "both"):
        found[by] = await measured(mind, store, by)
        for kind, score in sorted(found[by].items()):
            print(f"{by:8} {kind:11} n={score.questions:3} recall@5={score.recall:.3f} mrr={score.mrr:.3f}")
    both = found["both"]["all"]
    for half in ("meaning", "words"):
        alone = found[half]["all"]
        assert both.recall > alone.recall and both.mrr > alone.mrr, half
    assert both.recall >= 0.87 and both.mrr >= 0.77
