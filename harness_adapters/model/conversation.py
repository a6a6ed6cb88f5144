"""A conversation as a turn goes on with it: how large it is, and when it has to be made smaller; pure."""

from dataclasses import dataclass

from harness_adapters.contract import HarnessSpec, HistoryItem, ModelAnswered
from harness_adapters.model import compaction

_MOST_HALVINGS = 4
"""Of a history that is too large even to be summarized: its newest sixteenth will do."""


@dataclass(frozen=True)
class Compaction:
    """A summary to ask for: of the history before ``place``, as far as the newest ``at_most_tokens`` of it."""

    place: int
    at_most_tokens: int


@dataclass
class Conversation:
    """What one run of a turn carries from step to step.

    ``counted``: the tokens that the provider counted when the history had so many items. ``full``: it has not taken
    the history. ``shrunk``: how often the question for a summary was halved. ``rests``: there has just been one.
    """

    spec: HarnessSpec
    history: list[HistoryItem]
    requests_left: int
    counted: tuple[int, int] = (0, 0)
    full: bool = False
    shrunk: int = 0
    rests: bool = False

    @property
    def tokens(self) -> int:
        """About how many tokens the history has."""
        counted, items = self.counted
        return counted + compaction.tokens(self.history[items:])

    def goes_on(self, answered: ModelAnswered) -> None:
        """Add an answer whose calls are about to run."""
        self.history.append(answered.answer)
        self.counted = (answered.usage.total_tokens, len(self.history))
        self.rests = False

    def compaction(self) -> Compaction | None:
        """Return the summary to ask for before the model is asked again, if the context needs one."""
        limit = self.spec.compact_above_tokens
        if self.rests or not (self.full or self.tokens > limit):
            return None
        place = compaction.kept_from(self.history, at_most_tokens=limit // 4)
        return Compaction(place, limit >> self.shrunk) if place else None

    def shrink(self, compacts: Compaction | None) -> bool:
        """Take note that the context is too large; return whether it can be made smaller."""
        if compacts is not None:
            self.shrunk += 1
            return self.shrunk <= _MOST_HALVINGS
        self.full = True
        return self.compaction() is not None

    def compacted(self, history: list[HistoryItem]) -> None:
        """Go on with a shorter history."""
        self.history, self.counted, self.full, self.rests = history, (0, 0), False, True
