"""The words that mean something else than a message to the agent."""

import re
from dataclasses import dataclass
from typing import Literal

Word = Literal["agents", "new", "use", "stop", "status", "resume", "help"]

_AGENT = re.compile(r"agent=([\w.-]{1,128})(?:\s+|$)")
_ALONE: dict[str, Word] = {
    "agents": "agents", "new": "new", "stop": "stop", "status": "status", "resume": "resume", "help": "help",
}  # fmt: skip
_USE = re.compile(r"use\s+([\w.-]{1,128})", re.IGNORECASE)
_USE_WORDS = re.compile(r"use[ \t]+(\S[^\n]{0,127})", re.IGNORECASE)
_NOW = re.compile(r"now:\s*", re.IGNORECASE)

HELP = """*What I understand*
• anything else: a message to the agent; this thread is one session, and it stays
• `agent=NAME` in the first message: which agent answers · `use NAME`: another one from now on, in a new session
• `now: …` while I work: goes into what I am doing; otherwise a message waits for its turn
• `stop`, or :x: on any message of the thread · `resume` after a failure · `status` · `new`: forget this session
• `agents`: who there is · `help`"""


def listed(names: list[str]) -> str:
    """Return the names of agents as people read them."""
    return "\n".join(f"• `{name}`" for name in names) or "There is no agent yet."


def standing(session_id: str, explanation: dict[str, str]) -> str:
    """Return why a session stands where it stands, as people read it."""
    return f"`{session_id}`\n" + "\n".join(f"• {explanation[each]}" for each in ("stands", "because", "waits"))


@dataclass(frozen=True)
class Heard:
    """What a text means: a word, or a message, with the agent that it names and whether it is to steer."""

    word: Word | None
    agent: str | None
    text: str
    steers: bool = False


def maybe_agent(text: str) -> str | None:
    """Return what may be an agent's name of several words in a text that would then be the word ``use``."""
    found = _USE_WORDS.fullmatch(text.strip())
    return found[1] if found is not None else None


def hear(text: str, *, begun: bool = False) -> Heard:
    """Return what a text means; only one that is nothing but a word is a word.

    ``begun``: the thread has its session, so that a message names no agent.
    """
    said = text.strip()
    word = _ALONE.get(said.lower().rstrip("."))
    if word is not None:
        return Heard(word, None, "")
    used = _USE.fullmatch(said)
    if used is not None:
        return Heard("use", used[1], "")
    named = None if begun else _AGENT.match(said)
    if named is not None:
        said = said[named.end() :].strip()
    steering = _NOW.match(said)
    if steering is not None:
        said = said[steering.end() :]
    return Heard(None, named[1] if named else None, said, steers=steering is not None)
