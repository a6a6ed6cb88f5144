"""Scrubbing long texts in a process of their own, which is given up after a while.

Looking through megabytes takes minutes, and the regular expressions let nothing else of their process run meanwhile.
"""

import asyncio
import json
import sys
from collections.abc import Sequence

from controlplane.redaction.marks import Mark
from controlplane.redaction.scrub import Scrubbed, scrub

LONG_CHARACTERS = 100_000
"""Shorter ones take well under a second, and go through a thread."""

_PATIENCE_SECONDS = 300.0  # 20 MB took a third of it

_alone = asyncio.Semaphore(1)


async def scrubbed(
    text: str, *, key: bytes, known: Sequence[Mark], guess: bool, seconds: float = _PATIENCE_SECONDS
) -> Scrubbed:
    """Return what `scrub` does, wherever it is done; raises `TimeoutError` for a text that takes too long."""
    if len(text) < LONG_CHARACTERS:
        return await asyncio.to_thread(scrub, text, key=key, known=known, guess=guess)
    marks = [[mark.head.hex(), mark.whole.hex(), mark.length] for mark in known]
    given = json.dumps({"text": text, "key": key.hex(), "known": marks, "guess": guess})
    async with _alone, asyncio.timeout(seconds):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", __name__, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        try:
            output, _ = await process.communicate(given.encode())
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    if process.returncode != 0:
        raise TimeoutError(f"the process that looked through a text ended with {process.returncode}")
    found = json.loads(output)
    return Scrubbed(found["text"], tuple(found["kinds"]))


def main() -> None:
    """Scrub what comes in."""
    given = json.load(sys.stdin)
    known = [Mark(bytes.fromhex(head), bytes.fromhex(whole), length) for head, whole, length in given["known"]]
    done = scrub(given["text"], key=bytes.fromhex(given["key"]), known=known, guess=given["guess"])
    json.dump({"text": done.text, "kinds": done.kinds}, sys.stdout)


if __name__ == "__main__":
    main()
