"""Who may talk with which agent where, and who may decide; read at the moment of each message and each click."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(min_length=1, max_length=128)]
Names = Annotated[list[Name], Field(max_length=1000)]


class PlaceRules(BaseModel):
    """What holds in one place; None: as everywhere."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    agent_id: Name | None = None
    agent_ids: Names | None = None
    people: Names | None = None
    deciders: Names | None = None


class Rules(BaseModel):
    """What holds at a front door. ``agent_id`` answers where nothing else is said; None: people are asked to choose.

    ``people``, ``deciders``: ids of the service; None: everybody of its team, or everybody who may talk.
    ``session_url``: where a session can be looked at, with ``{session_id}`` in it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    environment_id: Name
    agent_id: Name | None = None
    vault_ids: Names = Field(default_factory=list[Name])
    people: Names | None = None
    deciders: Names | None = None
    places: Annotated[dict[Name, PlaceRules], Field(max_length=1000)] = Field(default_factory=dict[Name, PlaceRules])
    session_url: Annotated[str, Field(pattern=r"^https?://[^\s<>|]+$", max_length=500)] | None = None

    def may_talk(self, place: str, person: str) -> bool:
        """Say whether a person may talk with agents in a place."""
        allowed = self._at(place).people if self._at(place).people is not None else self.people
        return allowed is None or person in allowed

    def may_decide(self, place: str, person: str) -> bool:
        """Say whether a person may decide about calls there."""
        allowed = self._at(place).deciders if self._at(place).deciders is not None else self.deciders
        return self.may_talk(place, person) and (allowed is None or person in allowed)

    def may_answer(self, place: str, agent_id: str) -> bool:
        """Say whether an agent may answer in a place."""
        allowed = self._at(place).agent_ids
        return allowed is None or agent_id in allowed

    def default_agent(self, place: str) -> str | None:
        """Return the agent that answers in a place unless somebody says otherwise."""
        wanted = self._at(place).agent_id or self.agent_id
        return wanted if wanted is not None and self.may_answer(place, wanted) else None

    def _at(self, place: str) -> PlaceRules:
        return self.places.get(place, PlaceRules())
