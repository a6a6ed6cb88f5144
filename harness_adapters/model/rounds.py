"""A history in the order that providers want it: each answer directly followed by the outcomes of its tool uses."""

from collections.abc import Sequence
from dataclasses import dataclass

from harness_adapters.contract import Answer, HistoryItem, MediaBlock, TextBlock, ToolOutcome, ToolUse, UserInput

OUTCOME_UNKNOWN = (
    "Outcome unknown: the call was interrupted, and whether it took effect is not known. Check before repeating it."
)


@dataclass(frozen=True)
class AnswerRound:
    """An answer with one outcome for each of its tool uses, in their order."""

    answer: Answer
    outcomes: list[ToolOutcome]


Round = UserInput | AnswerRound


def rounds(history: Sequence[HistoryItem]) -> list[Round]:
    """Return the history without a dangling tool use: where an outcome is missing, the model is told so."""
    outcomes = {item.tool_use_id: item for item in history if isinstance(item, ToolOutcome)}
    ordered: list[Round] = []
    for item in history:
        if isinstance(item, UserInput):
            ordered.append(item)
        elif isinstance(item, Answer) and item.blocks:
            ordered.append(AnswerRound(item, [outcomes.get(use.event_id) or _unknown(use) for use in uses(item)]))
    return ordered


def uses(answer: Answer) -> list[ToolUse]:
    """Return the tool uses of an answer."""
    return [block for block in answer.blocks if isinstance(block, ToolUse)]


def open_uses(history: Sequence[HistoryItem]) -> list[ToolUse]:
    """Return the tool uses without an outcome of the answer that the history ends in."""
    done: set[str] = set()
    for item in reversed(history):
        if isinstance(item, ToolOutcome):
            done.add(item.tool_use_id)
        elif isinstance(item, Answer):
            return [use for use in uses(item) if use.event_id not in done]
    return []


def described(block: MediaBlock) -> str:
    """Return a note that stands for media which this provider cannot be given."""
    source = block.source
    name = block.title or source.get("file_id") or source.get("url") or source.get("media_type") or "without a name"
    return f"[{block.type} {name!r}: its content is not shown here]"


def plain(block: TextBlock | MediaBlock) -> str:
    """Return a block as text."""
    return block.text if isinstance(block, TextBlock) else described(block)


def _unknown(use: ToolUse) -> ToolOutcome:
    return ToolOutcome(tool_use_id=use.event_id, content=[TextBlock(text=OUTCOME_UNKNOWN)], is_error=True)
