"""``/bulkhead``: the words as a slash command, answered to whoever gives it alone."""

import asyncio
from collections.abc import Mapping
from typing import Any

from controlplane.frontdoors import words
from controlplane.frontdoors.desk import Desk
from controlplane.frontdoors.parts import Parts
from controlplane.frontdoors.plane import RefusedError
from controlplane.frontdoors.policy import Rules
from controlplane.frontdoors.slack import inbound
from controlplane.store import front_door_threads, frontdoors
from controlplane.store.front_door_threads import DoorThread

_ANSWER_SECONDS = 2.0  # Slack waits for three

_FRESH = "You have no thread here yet: mention me to begin one."


class Commands:
    """Slack has no such command in a thread: it means the one in that place in which the person has last spoken."""

    def __init__(self, parts: Parts, desk: Desk):
        self._parts = parts
        self._desk = desk

    async def answer(self, command: Mapping[str, Any]) -> str:
        """Do what the word says, and return what to say to the person."""
        place, person = str(command["channel_id"]), str(command["user_id"])
        rules, at = await self._standing(place, person)
        if not rules.may_talk(place, person):
            await self._desk.refuse("may_not_talk", place=place, person=person)
            return "Sorry, you may not talk with agents here."
        heard = words.hear(str(command.get("text") or "help"))
        if heard.word in ("stop", "resume", "new", "use"):
            return await self._passed_on(command, at)
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                return await self._told(heard.word, at, rules, place)
        except TimeoutError:
            return ":warning: not now; try again in a moment"
        except RefusedError as error:
            return f":warning: {error}"

    async def _standing(self, place: str, person: str) -> tuple[Rules, DoorThread | None]:
        door_id = self._parts.door.id
        async with self._parts.transaction() as connection:
            rules = (await frontdoors.get(connection, door_id)).rules
            thread = await front_door_threads.of_person(connection, door_id, place, person)
            return rules, await front_door_threads.at(connection, door_id, place, thread) if thread else None

    async def _passed_on(self, command: Mapping[str, Any], at: DoorThread | None) -> str:
        """Put a word on record that changes something, as if it had been said in the thread: so it is done once."""
        if at is None:
            return _FRESH
        await self._desk.take_in(inbound.commanded(command, thread=at.thread))
        return f"`{str(command['text']).strip()}`: passed on to the thread in which you have last spoken here."

    async def _told(self, word: str | None, at: DoorThread | None, rules: Rules, place: str) -> str:
        if word == "agents":
            found = await self._parts.plane.agents()
            return words.listed([name for each, name in found.items() if rules.may_answer(place, each)])
        if word == "status":
            if at is None or at.session_id is None:
                return _FRESH
            return words.standing(
                at.session_id, await self._parts.plane.get(f"/v1/sessions/{at.session_id}/explanation")
            )
        greeting = "" if word == "help" else "To talk with an agent, mention me: each thread is a session.\n"
        return greeting + words.HELP
