"""What becomes of a text before it leaves: secrets are taken out of it, and it calls nobody by calling everybody."""

import re
from typing import Any, cast

from controlplane.frontdoors.contract import Attachment, Body, Card, Choice, DeclinedError, Text, Trouble, Working
from controlplane.redaction import apart
from controlplane.redaction.scrub import Scrubbed
from controlplane.store import recognition
from controlplane.store.pool import Database
from controlplane.store.recognition import Known
from controlplane.vault.keyring import Keyring

_CODED = re.compile(r"<!\s*(channel|here|everyone|group)\b[^<>]*>|<!subteam\^([A-Z0-9]+)[^<>]*>", re.IGNORECASE)
_BEGUN = re.compile(r"<!(?=\s*(?:channel|here|everyone|group|subteam))", re.IGNORECASE)
_PLAIN = re.compile(r"@(?=(channel|here|everyone)\b)", re.IGNORECASE)

_UNSEEN = "[this could not be looked through for secrets in time]"

_GAP = "\u200b"
"""Has no width, and makes a mention a word like others."""


def disarm(text: str) -> str:
    """Return the text with mentions of everybody as plain words."""
    worded = _CODED.sub(lambda found: f"@{_GAP}{(found[1] or found[2]).lower()}", text)
    return _PLAIN.sub(f"@{_GAP}", _BEGUN.sub(f"<{_GAP}!", worded))


class Leaving:
    """Makes what a front door says fit to leave. The vaults' own secrets are known by their hashes alone."""

    def __init__(self, database: Database, keyring: Keyring, workspace_id: str):
        self._database = database
        self._keyring = keyring
        self._workspace_id = workspace_id

    async def text(self, text: str) -> str:
        """Return a text as it may leave."""
        try:
            return disarm((await self._scrubbed(text, guess=True)).text)
        except TimeoutError:
            return _UNSEEN

    async def begun(self, text: str) -> str:
        """Return what of a text that is still being written may be shown: whole words, and no part of a secret.

        Of the vaults' secrets only a whole one is known, and it may have spaces in it: as much is held back as the
        longest has characters. What stands whole in the text is taken out before that, so that the cut is in none.
        """
        known = await self._known()
        longest = max((mark.length for mark in known.marks), default=0)
        try:
            said = (await self._scrubbed(text, guess=False, known=known)).text
        except TimeoutError:
            return ""
        held = said[: max(0, len(said) - longest)]
        return held[: max(held.rfind(" "), held.rfind("\n")) + 1]

    async def body(self, body: Body) -> Body:
        """Return a message as it may leave."""
        match body:
            case Text():
                return body.model_copy(update={"markdown": await self.text(body.markdown)})
            case Working():
                return body.model_copy(update={"status": await self.text(body.status)})
            case Trouble():
                return body.model_copy(update={"message": await self.text(body.message)})
            case Card():
                outcome = await self.text(body.outcome) if body.outcome is not None else None
                return body.model_copy(update={"input": await self._arguments(body.input), "outcome": outcome})
            case Choice():
                agents = {agent_id: await self._certain(name) for agent_id, name in body.agents.items()}
                return body.model_copy(update={"agents": agents})
            case Attachment():
                text = await self.text(body.text) if body.text is not None else None
                return body.model_copy(update={"name": await self._certain(body.name), "text": text})

    async def secrets_in(self, content: bytes) -> tuple[str, ...]:
        """Return the kinds of secrets that are in a file; a file is sent as it is, or not at all.

        Read as text whatever it is: with bytes in it that are none, or with two for each character. Raises
        `DeclinedError` for one that cannot be looked through.
        """
        found = list[str]()
        try:
            for text in {content, content.replace(b"\0", b"")}:
                found += (await self._scrubbed(text.decode(errors="replace"), guess=False)).kinds
        except TimeoutError as error:
            raise DeclinedError("it could not be looked through for secrets in time") from error
        return tuple(found)

    async def _arguments(self, given: dict[str, Any]) -> dict[str, Any]:
        """Who decides is to see what is decided about, so that nothing is taken out on a guess.

        Each string by itself: a vault's secret with a quote or a line's end in it reads otherwise in JSON.
        """
        return cast("dict[str, Any]", await self._each(given, await self._known()))

    async def _each(self, value: Any, known: Known) -> Any:
        match value:
            case str():
                return await self._certain(value, known)
            case dict():
                items = cast("dict[str, Any]", value).items()
                return {await self._certain(name, known): await self._each(item, known) for name, item in items}
            case list():
                return [await self._each(item, known) for item in cast("list[Any]", value)]
            case _:
                return value

    async def _certain(self, text: str, known: Known | None = None) -> str:
        try:
            return (await self._scrubbed(text, guess=False, known=known)).text
        except TimeoutError:
            return _UNSEEN

    async def _scrubbed(self, text: str, *, guess: bool, known: Known | None = None) -> Scrubbed:
        known = known or await self._known()
        return await apart.scrubbed(text, key=known.key, known=known.marks, guess=guess)

    async def _known(self) -> Known:
        async with self._database.transaction(self._workspace_id) as connection:
            return await recognition.known(connection, self._workspace_id, keyring=self._keyring)
