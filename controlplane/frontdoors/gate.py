"""Who is let in, and which agents answer whom: asked anew at each message, each click and each command."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from controlplane.frontdoors.contract import Service
from controlplane.frontdoors.plane import Plane
from controlplane.frontdoors.policy import Rules
from controlplane.store import frontdoors
from controlplane.store.frontdoors import FrontDoorRecord
from controlplane.store.pool import Database


@dataclass(frozen=True)
class Denial:
    """Why somebody is not let in: ``reason`` for the record, ``said`` for the person."""

    reason: str
    said: str


STRANGER = Denial("guest_of_another_team", "only people of this workspace may talk with agents")
NOT_HERE = Denial("may_not_talk", "you may not talk with agents here")


class Gate:
    """What holds at a front door at the moment."""

    def __init__(self, *, database: Database, service: Service, door: FrontDoorRecord, plane: Plane):
        self._database = database
        self._service = service
        self._door = door
        self._plane = plane

    async def rules(self) -> Rules:
        """Return the rules that hold now."""
        async with self._database.transaction(self._door.workspace_id) as connection:
            return (await frontdoors.get(connection, self._door.id)).rules

    async def denial(
        self,
        rules: Rules,
        place: str,
        person: str,
        *,
        vouched: bool,
        is_of_team: Callable[[str], Awaitable[bool]] | None = None,
    ) -> Denial | None:
        """Return why a person may not talk in a place, or None.

        ``vouched``: the service has said that the person is of its team; who is not is asked about, and what the
        asking raises is raised. ``is_of_team``: how, if not once.
        """
        if not vouched and not await (is_of_team or self._service.is_of_team)(person):
            return STRANGER
        return None if rules.may_talk(place, person) else NOT_HERE

    async def agents(self, rules: Rules, place: str) -> dict[str, str]:
        """Return the names of the agents that may answer in a place, by id."""
        found = await self._plane.agents()
        return {agent_id: name for agent_id, name in found.items() if rules.may_answer(place, agent_id)}
