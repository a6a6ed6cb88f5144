"""A stand-in of ours for the limits that Slack publishes (docs.slack.dev, Rate limits); the emulator has none."""

import math
import time

_PER_MINUTE = {
    "assistant.threads.setStatus": 600,
    "chat.delete": 50,
    "chat.postEphemeral": 100,
    "chat.update": 50,
    "conversations.history": 50,
    "conversations.replies": 50,
    "files.completeUploadExternal": 100,
    "files.getUploadURLExternal": 100,
    "reactions.add": 50,
    "users.info": 100,
}
"""Each method's, of the app in a workspace."""

_POSTS = 2
"""At once in a channel, which has a message a second: "short bursts" are let through."""


class Published:
    """Counts what is asked, and says no as Slack does."""

    def __init__(self) -> None:
        self._left: dict[str, tuple[float, float]] = {}

    def wait(self, method: str, place: str) -> int:
        """Count a request and return 0, or after how many seconds it may be asked again."""
        if method == "chat.postMessage":
            return self._take(f"{method} {place}", most=_POSTS, per_second=1.0)
        if method in _PER_MINUTE:
            return self._take(method, most=_PER_MINUTE[method], per_second=_PER_MINUTE[method] / 60)
        return 0

    def _take(self, name: str, *, most: int, per_second: float) -> int:
        now = time.monotonic()
        left, at = self._left.get(name, (float(most), now))
        left = min(float(most), left + (now - at) * per_second)
        taken = left >= 1
        self._left[name] = (left - 1 if taken else left, now)
        return 0 if taken else math.ceil((1 - left) / per_second)
