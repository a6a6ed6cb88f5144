"""Asking the part ``memory`` to prepare; what asks needs none of what answers, and the brain has no room for that."""

from collections.abc import Sequence

import httpx
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from controlplane.memory.preparing import Draft, Prepared, unavailable
from controlplane.store.memory_vectors import Vector
from harness_adapters.guest import PLAIN

_ANSWER_SECONDS = 20.0
_QUESTION_SECONDS = 2.0
"""A search does without its vector rather than wait longer."""


class Drafts(BaseModel):
    """What is to be kept in a workspace."""

    model_config = ConfigDict(frozen=True)

    workspace_id: str
    drafts: list[Draft]


class Question(BaseModel):
    """What somebody wants to know."""

    model_config = ConfigDict(frozen=True)

    workspace_id: str
    text: str


PREPARED = TypeAdapter(list[Prepared])
VECTOR = TypeAdapter(Vector | None)


class RemotePreparer:
    """A `Preparer` that asks the part ``memory``."""

    def __init__(self, url: str):
        self._client = httpx.AsyncClient(base_url=url, timeout=_ANSWER_SECONDS, verify=PLAIN)

    async def prepare(self, workspace_id: str, drafts: Sequence[Draft]) -> list[Prepared]:
        """See `Preparer.prepare`."""
        body = Drafts(workspace_id=workspace_id, drafts=list(drafts)).model_dump_json()
        try:
            answer = await self._client.post("/prepare", content=body)
            answer.raise_for_status()
            return PREPARED.validate_json(answer.content)
        except (httpx.HTTPError, ValidationError) as error:
            raise unavailable() from error

    async def question(self, workspace_id: str, text: str) -> Vector | None:
        """See `Preparer.question`."""
        try:
            body = Question(workspace_id=workspace_id, text=text).model_dump_json()
            answer = await self._client.post("/question", content=body, timeout=_QUESTION_SECONDS)
            answer.raise_for_status()
            return VECTOR.validate_json(answer.content)
        except (httpx.HTTPError, ValidationError):
            return None

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()
