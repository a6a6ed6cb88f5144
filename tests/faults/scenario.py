"""What a seed stands for: which part is hurt, how, at which moment of a turn, under what load. Pure."""

import random
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

from harness_adapters.contract import HarnessName

Part = Literal[
    "api", "brain", "sandboxes", "egress", "gateway", "temporal", "postgres", "provider",
    "opencode", "claude-agent-sdk", "codex",
]  # fmt: skip
"""What can be hurt; the last three are the programs of harnesses."""
Fault = Literal["kill", "stall", "cut", "full", "refuse", "break", "garble", "hang"]
"""The last four are what a provider does by itself."""
Moment = Literal[
    "accepted", "streaming", "dispatched", "unconfirmed", "approval", "between", "steering", "interrupting"
]

MOMENTS: tuple[Moment, ...] = get_args(Moment)
PARTS: tuple[Part, ...] = ("api", "brain", "sandboxes", "egress", "gateway", "temporal", "postgres")
_ANTHROPIC, _CHAT, _RESPONSES = "scripted/matrix", "scripted/openai-matrix", "scripted/responses-matrix"
MODELS: Mapping[HarnessName, tuple[str, ...]] = {
    "builtin": (_ANTHROPIC, _CHAT, _RESPONSES),
    "opencode": (_ANTHROPIC, _CHAT, _RESPONSES),
    "claude-agent-sdk": (_ANTHROPIC,),
    "codex": (_RESPONSES,),
}
"""Every harness, and what it can ask: one model for each format that it speaks."""

PROGRAMS: tuple[Literal["opencode", "claude-agent-sdk", "codex"], ...] = ("opencode", "claude-agent-sdk", "codex")
WITH_A_DISK: tuple[Part, ...] = ("postgres", "temporal", "sandboxes")
MISBEHAVIOURS: tuple[Fault, ...] = ("refuse", "break", "garble", "hang")
CI_SEEDS = range(40)
"""The first seeds go once through every pair of a part and a fault before any comes again."""


@dataclass(frozen=True)
class Message:
    """One message to the model: the effects that its commands have, in order, and what it says at the end."""

    key: str
    effects: tuple[str, ...]
    padding_chars: int


@dataclass(frozen=True)
class Conversation:
    """One session. ``asks``: its commands wait for a person, who denies the effects in ``denied``."""

    harness: HarnessName
    model: str
    asks: bool
    messages: tuple[Message, ...]
    denied: frozenset[str]


@dataclass(frozen=True)
class Scenario:
    """A seed spelt out. The first conversation is the one at whose moment the part is hurt.

    ``budget_tokens``: what the other conversations share, if they do; it is raised when they rest because of it.
    """

    seed: int
    part: Part
    fault: Fault
    moment: Moment
    conversations: tuple[Conversation, ...]
    budget_tokens: int | None

    def on(self, installed: Collection[str]) -> "Scenario | None":
        """Return it with the builtin harness in place of those that are not there; None if one of these is hurt."""
        if self.part in PROGRAMS and self.part not in installed:
            return None
        conversations = (
            each if each.harness in installed else replace(each, harness="builtin", model=_ANTHROPIC)
            for each in self.conversations
        )
        return replace(self, conversations=tuple(conversations))

    def __str__(self) -> str:
        budget = f", budget of {self.budget_tokens} tokens" if self.budget_tokens else ""
        return (
            f"seed {self.seed}: {self.fault} {self.part}, moment {self.moment},"
            f" {len(self.conversations)} sessions{budget}"
        )


def _cells() -> tuple[tuple[Part, Fault, Moment], ...]:
    """Return every cell of the matrix, so ordered that each pair of part and fault comes before any comes again."""
    order = random.Random(0)
    hurts: tuple[tuple[Fault, tuple[Part, ...]], ...] = (
        ("kill", (*PARTS, *PROGRAMS)),
        ("stall", (*PARTS, *PROGRAMS)),
        ("cut", PARTS),
        ("full", WITH_A_DISK),
    )
    pairs = [(part, fault) for fault, parts in hurts for part in parts]
    order.shuffle(pairs)
    moments = {pair: order.sample(MOMENTS, len(MOMENTS)) for pair in pairs}
    rounds = [(*pair, moments[pair][number]) for number in range(len(MOMENTS)) for pair in pairs]
    alone: list[tuple[Part, Fault, Moment]] = [("provider", fault, "streaming") for fault in MISBEHAVIOURS]
    return (*rounds[: len(pairs)], *alone, *rounds[len(pairs) :])


CELLS = _cells()


def choose(seed: int) -> Scenario:
    """Return the scenario of a seed: always the same one."""
    part, fault, moment = CELLS[seed % len(CELLS)]
    chance = random.Random(seed)
    size = chance.randint(1, 4)
    conversations = tuple(_conversation(chance, seed, number, part, moment) for number in range(size))
    budget = chance.randint(600, 2500) if size > 1 and chance.random() < 0.5 else None
    return Scenario(seed, part, fault, moment, conversations, budget)


def _conversation(chance: random.Random, seed: int, number: int, part: Part, moment: Moment) -> Conversation:
    harness: HarnessName = chance.choice(tuple(MODELS))
    if number == 0 and part in PROGRAMS:
        harness = part
    asks = moment == "approval" if number == 0 else chance.random() < 0.25
    messages = tuple(
        Message(
            key=f"s{seed}c{number}m{at}",
            effects=tuple(f"s{seed}c{number}m{at}e{step}" for step in range(chance.randint(1, 2))),
            padding_chars=chance.choice((0, 0, 20_000)),
        )
        for at in range(chance.randint(2, 3))
    )
    effects = [effect for message in messages for effect in message.effects]
    denied = frozenset(effect for effect in effects if asks and chance.random() < 0.3)
    return Conversation(harness, chance.choice(MODELS[harness]), asks, messages, denied)
