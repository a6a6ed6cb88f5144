"""``/bulkhead``: the words as a slash command, answered to whoever gives it alone."""

import asyncio
from collections.abc import Mapping
from typing import Any

from controlplane.frontdoors import words
from controlplane.frontdoors.contract import AmbiguousError, LimitedError
from controlplane.frontdoors.desk import Desk
from controlplane.frontdoors.parts import Parts
from controlplane.frontdoors.plane import RefusedError
from controlplane.frontdoors.policy import Rules
from controlplane.frontdoors.slack import inbound
from controlplane.frontdoors.words import Word
from controlplane.store import front_door_threads
from controlplane.store.front_door_threads import DoorThread

_ANSWER_SECONDS = 2.0  # Slack waits for three

_NOT_NOW = ":warning: not now; try again in a moment"
_FRESH = "You have no thread here yet: mention me to begin one."


class Commands:
    """Slack has no such command in a thread: it means the one in that place in which the person has last spoken."""

    def __init__(self, parts: Parts, desk: Desk):
        self._parts = parts
        self._desk = desk

    async def answer(self, command: Mapping[str, Any]) -> str:
        """Do what the word says, and return what to say to the person."""
        place, person = str(command["channel_id"]), str(command["user_id"])
        until = asyncio.get_running_loop().time() + _ANSWER_SECONDS
        rules, at = await self._parts.gate.rules(), await self._thread(place, person)
        try:
            async with asyncio.timeout_at(until):
                denial = await self._parts.gate.denial(
                    rules, place, person, vouched=inbound.team_of_person(command) is not None
                )
        except (TimeoutError, LimitedError, AmbiguousError):
            return _NOT_NOW
        if denial is not None:
            await self._desk.refuse(denial.reason, place=place, person=person)
            return f"Sorry, {denial.said}."
        heard = words.hear(str(command.get("text") or "help"))
        if heard.word in ("stop", "resume", "new", "use"):
            return await self._passed_on(command, at)
        try:
            async with asyncio.timeout_at(until):
                return await self._told(heard.word, at, rules, place)
        except TimeoutError:
            return _NOT_NOW
        except RefusedError as error:
            return f":warning: {error}"

    async def _thread(self, place: str, person: str) -> DoorThread | None:
        door_id = self._parts.door.id
        async with self._parts.transaction() as connection:
            thread = await front_door_threads.of_person(connection, door_id, place, person)
            return await front_door_threads.at(connection, door_id, place, thread) if thread else None

    async def _passed_on(self, command: Mapping[str, Any], at: DoorThread | None) -> str:
        """Put a word on record that changes something, as if it had been said in the thread: so it is done once."""
        if at is None:
            return _FRESH
        await self._desk.take_in(inbound.commanded(command, thread=at.thread))
        return f"`{str(command['text']).strip()}`: passed on to the thread in which you have last spoken here."

    async def _told(self, word: Word | None, at: DoorThread | None, rules: Rules, place: str) -> str:
        if word == "status" and at is None:
            return _FRESH
        said = await self._parts.answers.to(word, at.session_id if at else None, rules, place)
        greeting = "" if word is not None else "To talk with an agent, mention me: each thread is a session.\n"
        return greeting + said
