"""How long the builtin harness waits, and how often it asks again."""

import random
from dataclasses import dataclass

MAX_ATTEMPTS = 5
"""With the waits below a step rides out half a minute of trouble; longer outages are the turn's retry to bear."""

FIRST_WAIT_SECONDS = 1.0
LONGEST_WAIT_SECONDS = 30.0
"""Without word from the provider; beyond it a person would rather be told."""

LONGEST_RETRY_AFTER_SECONDS = 120.0
"""A provider that asks for more gets a request sooner than it wished, not a turn that seems to hang."""

STREAM_IDLE_SECONDS = 180.0
"""Anthropic pings every few seconds; OpenAI's reasoning models think for a minute or two before the first byte."""


@dataclass(frozen=True)
class Patience:
    """The limits of one harness; tests shorten them."""

    max_attempts: int = MAX_ATTEMPTS
    first_wait_seconds: float = FIRST_WAIT_SECONDS
    stream_idle_seconds: float = STREAM_IDLE_SECONDS

    def wait_seconds(self, attempt: int, retry_after_seconds: float | None) -> float:
        """Return the wait after failed attempt ``attempt`` (from 1): as asked, or exponential with jitter."""
        if retry_after_seconds is not None:
            return min(retry_after_seconds, LONGEST_RETRY_AFTER_SECONDS)
        longest = min(self.first_wait_seconds * 2 ** (attempt - 1), LONGEST_WAIT_SECONDS)
        return longest * random.uniform(0.5, 1.0)  # noqa: S311 - jitter keeps no secret
