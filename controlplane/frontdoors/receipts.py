"""The sign that a message has been seen: at once, whatever else happens in its thread."""

import asyncio
from contextlib import suppress

from controlplane.frontdoors import words
from controlplane.frontdoors.contract import AmbiguousError, DeclinedError, Inbound, LimitedError, Said, Service
from controlplane.frontdoors.policy import Rules
from controlplane.tasks import end

_AT_ONCE = 8
_TRIES = 5
_FIRST_SECONDS = 3.0  # answers wait no longer for the signs of a burst
_KNOWN = 10_000
"""Of how many messages it is remembered that they have their sign: far more than are open at a time."""


class Receipts:
    """Gives each message one sign. Nothing hangs on it: one that is lost with this process is given again by whoever
    takes the message up."""

    def __init__(self, service: Service):
        self._service = service
        self._places = asyncio.Semaphore(_AT_ONCE)
        self._limited = asyncio.Lock()
        self._given: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._untried = 0
        self._few = asyncio.Event()
        self._few.set()

    def note(self, inbound: Inbound, rules: Rules) -> None:
        """Have the sign given to a message that is on record, if it is one to an agent and the person may talk."""
        is_word = isinstance(inbound.what, Said) and words.hear(inbound.what.text).word is not None
        if not is_word and rules.may_talk(inbound.place, inbound.person):
            self.give(inbound)

    def give(self, inbound: Inbound) -> None:
        """Have the sign given to a message that has none from this process."""
        key = (inbound.place, inbound.message)
        if not isinstance(inbound.what, Said) or key in self._given:
            return
        while len(self._given) >= _KNOWN:
            del self._given[next(iter(self._given))]
        self._count(1)
        self._given[key] = asyncio.create_task(self._seen(inbound))

    async def before_answers(self) -> None:
        """Let a burst of messages have their signs before anything is done about them, within reason."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_FIRST_SECONDS):
                await self._few.wait()

    async def close(self) -> None:
        """Give no more."""
        await end(*self._given.values())

    def _count(self, change: int) -> None:
        self._untried += change
        if self._untried <= _AT_ONCE:
            self._few.set()
        else:
            self._few.clear()

    async def _seen(self, inbound: Inbound) -> None:
        """Give the sign. Once the service wants no more for a while, all wait for one that asks again and again."""
        try:
            async with self._places:
                is_due = inbound.vouched or await self._is_of_team(inbound.person)
                if is_due and not self._limited.locked():
                    is_due = await self._refused_seconds(inbound) is not None
        finally:
            self._count(-1)
        if not is_due:
            return
        async with self._limited:
            while True:
                seconds = await self._refused_seconds(inbound)
                if seconds is None:
                    return
                await asyncio.sleep(seconds)

    async def _is_of_team(self, person: str) -> bool:
        try:
            return await self._service.is_of_team(person)
        except (LimitedError, AmbiguousError):
            return False

    async def _refused_seconds(self, inbound: Inbound) -> float | None:
        """Ask for the sign to be given, and return after how many seconds to ask again; None: no more."""
        for _ in range(_TRIES):
            try:
                await self._service.acknowledge(inbound.place, inbound.message)
            except LimitedError as error:
                return error.seconds
            except AmbiguousError:
                continue
            except DeclinedError:
                return None
            else:
                return None
        return None
