"""What becomes of a text before it leaves: secrets are taken out of it, and it calls nobody by calling everybody."""

import asyncio
import json
import re
from typing import Any

from controlplane.frontdoors.contract import Attachment, Body, Card, Choice, Text, Trouble, Working
from controlplane.redaction.scrub import Scrubbed, scrub
from controlplane.store import recognition
from controlplane.store.pool import Database
from controlplane.store.recognition import Known
from controlplane.vault.keyring import Keyring

_CODED = re.compile(r"<!\s*(channel|here|everyone|group)\b[^>]*>|<!subteam\^([A-Z0-9]+)[^>]*>", re.IGNORECASE)
_PLAIN = re.compile(r"@(?=(channel|here|everyone)\b)", re.IGNORECASE)

_GAP = "\u200b"
"""Has no width, and makes a mention a word like others."""


def disarm(text: str) -> str:
    """Return the text with mentions of everybody as plain words."""
    return _PLAIN.sub(f"@{_GAP}", _CODED.sub(lambda found: f"@{_GAP}{(found[1] or found[2]).lower()}", text))


class Leaving:
    """Makes what a front door says fit to leave. The vaults' own secrets are known by their hashes alone."""

    def __init__(self, database: Database, keyring: Keyring, workspace_id: str):
        self._database = database
        self._keyring = keyring
        self._workspace_id = workspace_id

    async def text(self, text: str) -> str:
        """Return a text as it may leave."""
        return disarm((await self._scrubbed(text, guess=True)).text)

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
            case Choice() | Attachment():
                return body

    async def secrets_in(self, content: bytes) -> tuple[str, ...]:
        """Return the kinds of secrets that are in a file of text; a file is sent as it is, or not at all."""
        try:
            text = content.decode()
        except UnicodeDecodeError:
            return ()
        return (await self._scrubbed(text, guess=False)).kinds

    async def _arguments(self, given: dict[str, Any]) -> dict[str, Any]:
        """Who decides is to see what is decided about, so that nothing is taken out on a guess."""
        text = json.dumps(given, ensure_ascii=False)
        found = await self._scrubbed(text, guess=False)
        if not found.kinds:
            return given
        try:
            return json.loads(found.text)
        except ValueError:
            return {"redacted": found.text}

    async def _scrubbed(self, text: str, *, guess: bool) -> Scrubbed:
        known = await self._known()
        return await asyncio.to_thread(scrub, text, key=known.key, known=known.marks, guess=guess)

    async def _known(self) -> Known:
        async with self._database.transaction(self._workspace_id) as connection:
            return await recognition.known(connection, self._workspace_id, keyring=self._keyring)
