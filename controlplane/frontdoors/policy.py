"""Who may talk with which agent where, and who may decide; read at the moment of each message and each click."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, cast

import structlog
from pydantic import BaseModel, ConfigDict, Field, ValidationError

Name = Annotated[str, Field(min_length=1, max_length=128)]
Names = Annotated[list[Name], Field(max_length=1000)]


ANY = "*"
"""In a list of names: each there is."""

_NOBODY: Mapping[str, list[str]] = {"agent_ids": [], "people": [], "deciders": []}
_INSTEAD: Mapping[str, Any] = {**_NOBODY, "agent_id": None, "vault_ids": [], "session_url": None}
"""What holds instead of a field that cannot be read: nothing that it may have kept from anybody."""

_log = structlog.get_logger(__name__)


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
    nobody, and the agents that answer by default: who is kept out there would go to another place. Where people are
    named, no limit on people keeps agents from them.
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
        limited = any(_limits(each.agent_ids) for each in self._of_places())
        # Who is kept out of one place meets its agents in no other, unless people are named for that one too.
        limited = limited or (self._limits_people() and not _limits(at.people))
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


def readable(stored: Mapping[str, Any]) -> Rules:
    """Return rules from the record. A field that cannot be read lets nobody in, or is not said; all others hold.

    Raises `ValidationError` where nothing is known to be as safe: a field of another release, or no environment.
    """
    try:
        return Rules.model_validate(stored)
    except ValidationError as error:
        broken = {_field(each["loc"]) for each in error.errors()}
    _log.error("front_door_rules_broken", fields=sorted(".".join(each) for each in broken))
    mended: Any = stored
    for path in broken:
        mended = _mended(mended, path)
    return Rules.model_validate(mended)


def _field(loc: tuple[int | str, ...]) -> tuple[str, ...]:
    """Return the field of rules, or of a place's, that an error is about."""
    depth = {"places": 3, "direct": 2, "elsewhere": 2}.get(str(loc[0]), 1)
    return tuple(str(each) for each in loc[:depth])


def _mended(rules: Mapping[str, Any], path: tuple[str, ...]) -> Mapping[str, Any]:
    match path:
        case (("direct" | "elsewhere") as name, *field):
            return {**rules, name: _place_mended(rules[name], field)}
        case ("places", place, *field):
            places = rules["places"]
            return {**rules, "places": {**places, place: _place_mended(places[place], field)}}
        case (name,) if name in _INSTEAD:
            return {**rules, name: _INSTEAD[name]}
        case _:
            return rules


def _place_mended(place: Any, field: list[str]) -> Mapping[str, Any]:
    """Return a place's rules without what is broken; one of which nobody knows what it limits is closed."""
    if not field or field[0] not in PlaceRules.model_fields:
        return _NOBODY
    return {**cast("Mapping[str, Any]", place), field[0]: _INSTEAD[field[0]]}


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
