"""What to do when a conversation outgrows the model's context: a summary stands for its older part; pure."""

import json
from collections.abc import Sequence

from harness_adapters.contract import (
    Answer,
    AnswerText,
    HistoryItem,
    MediaBlock,
    TextBlock,
    ThinkingBlock,
    ToolOutcome,
    UserInput,
    summarized,
)
from harness_adapters.model.rounds import plain

INSTRUCTION = """\
Pause the work here. The conversation has grown too long to go on with, and everything above this message is about to
be replaced by what you write now. Write the notes that you need to go on without it: what was asked for, word for
word where the wording matters; what has been decided, and why; what has been done, with the paths, commands, names
and values that matter; what went wrong, and what was learned from it; what is still to be done, and the next step.
Call no tool. Write nothing but the notes."""

_LEFT_OUT = "[The older part of the conversation is left out here.]"
_CHARS_PER_TOKEN = 4
_MEDIA_TOKENS = 1500
"""About what a provider counts for an image; documents differ too much to say."""


def tokens(history: Sequence[HistoryItem]) -> int:
    """Estimate how many tokens a history has."""
    return sum(_tokens(item) for item in history)


def kept_from(history: Sequence[HistoryItem], *, at_most_tokens: int) -> int:
    """Return where the part begins that stays as it is: at the last message, if it and what followed are that small.

    What comes before is never empty, unless the history is a single item; then it is 0, and nothing can be gained.
    """
    messages = [place for place, item in enumerate(history) if isinstance(item, UserInput)]
    last = messages[-1] if messages else 0
    if last > 0 and tokens(history[last:]) <= at_most_tokens:
        return last
    return len(history) if len(history) > 1 else 0


def question(older: Sequence[HistoryItem], *, at_most_tokens: int, event_id: str) -> list[HistoryItem]:
    """Return the conversation that asks for the notes; what is more than the limit is left out, the oldest first."""
    asking = _said(event_id, INSTRUCTION)
    if tokens(older) <= at_most_tokens:
        return [*older, asking]
    starts = [place for place, item in enumerate(older) if not isinstance(item, ToolOutcome)]
    fitting = (place for place in starts if tokens(older[place:]) <= at_most_tokens)
    return [_said(event_id, _LEFT_OUT), *older[next(fitting, starts[-1]) :], asking]


def compacted(history: Sequence[HistoryItem], place: int, *, summary: str, event_id: str) -> list[HistoryItem]:
    """Return the history with the notes in place of what came before ``place``."""
    return [summarized(event_id, summary), *history[place:]]


def _said(event_id: str, text: str) -> UserInput:
    return UserInput(event_id=event_id, content=[TextBlock(text=text)])


def _tokens(item: HistoryItem) -> int:
    match item:
        case UserInput() | ToolOutcome():
            return sum(_of_content(block) for block in item.content)
        case Answer():
            return sum(_of_block(block) for block in item.blocks)


def _of_content(block: TextBlock | MediaBlock) -> int:
    return _MEDIA_TOKENS if isinstance(block, MediaBlock) else -(-len(plain(block)) // _CHARS_PER_TOKEN)


def _of_block(block: object) -> int:
    match block:
        case AnswerText() | ThinkingBlock():
            said = block.text
        case _:
            said = json.dumps(getattr(block, "input", {}), ensure_ascii=False)
    return -(-len(said) // _CHARS_PER_TOKEN)
