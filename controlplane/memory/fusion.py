"""One ranking out of two: by the meaning of a memory, and by its words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

RANK_OFFSET = 20
"""The constant of reciprocal rank fusion: smaller than the usual 60, as only a few hits are looked at."""
WORDS_WEIGHT = 1.5
"""Of the ranking by words, where all words of the query fit; it counts by the square of how much does, so that it
is silent where it has nothing to say. Offset and weights were measured in `tests/quality/memory`."""


@dataclass(frozen=True)
class Fused:
    """A hit. ``reason``: in words, where it ranked by itself."""

    version_id: str
    score: float
    reason: str


def fused(
    by_meaning: Sequence[tuple[str, float]],
    by_words: Sequence[tuple[str, float, Sequence[str]]],
    superseded_by: Mapping[str, str],
) -> list[Fused]:
    """Fuse rankings of version ids, the best first: with their similarity, and with the share of
    the query that their words make up and these words.

    ``superseded_by``: the path of the other memory. What is superseded comes behind all that holds.
    """
    scores: dict[str, float] = {}
    reasons: dict[str, list[str]] = {}
    for rank, (version_id, similarity) in enumerate(by_meaning, start=1):
        scores[version_id] = 1 / (RANK_OFFSET + rank)
        reasons[version_id] = [f"meaning: rank {rank}, similarity {similarity:.2f}"]
    for rank, (version_id, share, words) in enumerate(by_words, start=1):
        weight = WORDS_WEIGHT * min(1.0, share) ** 2
        scores[version_id] = scores.get(version_id, 0.0) + weight / (RANK_OFFSET + rank)
        reasons.setdefault(version_id, []).append(f"words: rank {rank}, {', '.join(words[:6])}")
    for version_id, path in superseded_by.items():
        if version_id in reasons:
            reasons[version_id].append(f"superseded by {path}")
    order = sorted(scores, key=lambda each: (each in superseded_by, -scores[each], each))
    return [Fused(each, round(scores[each], 6), "; ".join(reasons[each])) for each in order]
