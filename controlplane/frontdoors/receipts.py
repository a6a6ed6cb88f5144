"""The sign that a message has been seen: at once, whatever else happens in its thread."""

import asyncio

import psycopg
import structlog

from controlplane.frontdoors import words
from controlplane.frontdoors.contract import AmbiguousError, DeclinedError, Inbound, LimitedError, Said, Service
from controlplane.store import frontdoors
from controlplane.store.frontdoors import FrontDoorRecord
from controlplane.store.pool import Database
from controlplane.tasks import end

_AT_ONCE = 8
_TRIES = 5
_KNOWN = 10_000
"""Of how many messages it is remembered that they have their sign: far more than are open at a time."""

_log = structlog.get_logger(__name__)


class Receipts:
    """Gives each message one sign. Nothing hangs on it: one that is lost with this process is given again by whoever
    takes the message up."""

    def __init__(self, *, database: Database, service: Service, door: FrontDoorRecord):
        self._database = database
        self._service = service
        self._door = door
        self._places = asyncio.Semaphore(_AT_ONCE)
        self._given: dict[tuple[str, str], asyncio.Task[None]] = {}

    def note(self, inbound: Inbound) -> None:
        """Have the sign given to a message that is on record, if it is one to an agent and the person may talk."""
        what = inbound.what
        key = (inbound.place, inbound.message)
        if isinstance(what, Said) and words.hear(what.text).word is None and key not in self._given:
            while len(self._given) >= _KNOWN:
                del self._given[next(iter(self._given))]
            self._given[key] = asyncio.create_task(self._seen(inbound))

    async def give(self, inbound: Inbound) -> None:
        """Give the sign to a message that has none from this process."""
        if isinstance(inbound.what, Said) and (inbound.place, inbound.message) not in self._given:
            await self._give(inbound)

    async def close(self) -> None:
        """Give no more."""
        await end(*self._given.values())

    async def _seen(self, inbound: Inbound) -> None:
        try:
            async with self._database.transaction(self._door.workspace_id) as connection:
                rules = (await frontdoors.get(connection, self._door.id)).rules
        except psycopg.Error as error:
            _log.info("message_not_acknowledged", cause=type(error).__name__)
            return
        if rules.may_talk(inbound.place, inbound.person):
            async with self._places:
                if inbound.vouched or await self._is_of_team(inbound.person):
                    await self._give(inbound)

    async def _is_of_team(self, person: str) -> bool:
        try:
            return await self._service.is_of_team(person)
        except (LimitedError, AmbiguousError):
            return False

    async def _give(self, inbound: Inbound) -> None:
        for _ in range(_TRIES):
            try:
                await self._service.acknowledge(inbound.place, inbound.message)
            except LimitedError as error:
                await asyncio.sleep(error.seconds)
            except AmbiguousError:
                continue
            except DeclinedError:
                return
            else:
                return
