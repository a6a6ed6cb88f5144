"""What is said to a word that changes nothing, wherever it was given."""

from controlplane.frontdoors import words
from controlplane.frontdoors.gate import Gate
from controlplane.frontdoors.plane import Plane
from controlplane.frontdoors.policy import Rules
from controlplane.frontdoors.words import Word

NO_SESSION = "This thread has no session yet."


class Answers:
    """Answers the words that ask; any other is answered with what there is to say."""

    def __init__(self, *, gate: Gate, plane: Plane):
        self._gate = gate
        self._plane = plane

    async def to(self, word: Word | None, session_id: str | None, rules: Rules, place: str) -> str:
        """Return the answer in a place, of a thread that is this session, or none yet."""
        if word == "agents":
            return words.listed([*(await self._gate.agents(rules, place)).values()])
        if word != "status":
            return words.HELP
        if session_id is None:
            return NO_SESSION
        return words.standing(session_id, await self._plane.get(f"/v1/sessions/{session_id}/explanation"))
