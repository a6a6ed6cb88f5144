"""Who may talk with which agent where, and who may decide; read at the moment of each message and each click."""

from collections.abc import Iterable
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(min_length=1, max_length=128)]
Names = Annotated[list[Name], Field(max_length=1000)]


ANY = "*"
"""In a list of names: each there is."""


class PlaceRules(BaseModel):
    """What holds in one place; None: as everywhere."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    agent_id: Name | None = None
    agent_ids: Names | None = None
    people: Names | None = None
    deciders: Names | None = None


class Rules(BaseModel):
    """What holds at a front door. ``agent_id`` answers where nothing else is said; None: people are asked to choose.

    ``agent_ids``: who may be asked to answer; ``people``, ``deciders``: ids of the service. None: nothing is said, so
    every agent, everybody of the team, everybody who may talk. But once a place is limited in one of them it means
    nobody, and the agents that answer by default: who is kept out there would go to another place.
    ``places``: by the service's ids; ``direct``: conversations of two; ``elsewhere``: all others that have no rule.
    ``session_url``: where a session can be looked at, with ``{session_id}`` in it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    environment_id: Name
    agent_id: Name | None = None
    agent_ids: Names | None = None
    vault_ids: Names = Field(default_factory=list[Name])
    people: Names | None = None
    deciders: Names | None = None
    places: Annotated[dict[Name, PlaceRules], Field(max_length=1000)] = Field(default_factory=dict[Name, PlaceRules])
    direct: PlaceRules | None = None
    elsewhere: PlaceRules | None = None
    session_url: Annotated[str, Field(pattern=r"^https?://[^\s<>|]+$", max_length=500)] | None = None

    def may_talk(self, place: str, person: str) -> bool:
        """Say whether a person may talk with agents in a place."""
        return _allows((self._at(place).people, self.people), person, limited=self._limits_people())

    def may_decide(self, place: str, person: str) -> bool:
        """Say whether a person may decide about calls there."""
        limited = any(_limits(each.deciders) for each in self._of_places())
        said = (self._at(place).deciders, self.deciders)
        return self.may_talk(place, person) and _allows(said, person, limited=limited)

    def may_answer(self, place: str, agent_id: str) -> bool:
        """Say whether an agent may answer in a place. Who answers there or everywhere by default may, unless the
        place, or for the latter the front door, has a list without it."""
        at = self._at(place)
        if at.agent_ids is None and agent_id == at.agent_id:
            return True
        if at.agent_ids is None and self.agent_ids is None and agent_id == self.agent_id:
            return True
        limited = self._limits_people() or any(_limits(each.agent_ids) for each in self._of_places())
        return _allows((at.agent_ids, self.agent_ids), agent_id, limited=limited)

    def default_agent(self, place: str) -> str | None:
        """Return the agent that answers in a place unless somebody says otherwise."""
        wanted = self._at(place).agent_id or self.agent_id
        return wanted if wanted is not None and self.may_answer(place, wanted) else None

    def named_agents(self) -> set[str]:
        """Return the ids of all agents that are named anywhere."""
        found = {each.agent_id for each in (self, *self._of_places()) if each.agent_id is not None}
        return found | {agent_id for each in (self, *self._of_places()) for agent_id in each.agent_ids or []} - {ANY}

    def _limits_people(self) -> bool:
        return any(_limits(each.people) for each in self._of_places())

    def _of_places(self) -> list[PlaceRules]:
        return [each for each in (*self.places.values(), self.direct, self.elsewhere) if each is not None]

    def _at(self, place: str) -> PlaceRules:
        others = self.direct if _is_direct(place) else self.elsewhere
        return self.places.get(place) or others or PlaceRules()


def _limits(names: list[str] | None) -> bool:
    return names is not None and ANY not in names


def _allows(said: Iterable[list[str] | None], who: str, *, limited: bool) -> bool:
    """Say whether somebody is on the first list that there is; if there is none, nobody is if it is ``limited``."""
    for names in said:
        if names is not None:
            return ANY in names or who in names
    return not limited


def _is_direct(place: str) -> bool:
    """Say whether a place is a conversation of two: of Slack's ids, the only ones so far, those that begin so."""
    return place.startswith("D")
