"""What a text goes through before it is kept: secrets out, then its vector; a part of its own does it for all."""

from collections.abc import Sequence
from typing import Protocol

from pydantic import BaseModel, ConfigDict

from controlplane.errors import InvalidRequestError, UnavailableError
from controlplane.store.memory_vectors import Vector


class Draft(BaseModel):
    """A text that somebody wants to keep, and the path for it."""

    model_config = ConfigDict(frozen=True)

    path: str
    content: str


class Prepared(BaseModel):
    """What may be kept of it. ``redacted``: the kinds of secrets that were in it."""

    model_config = ConfigDict(frozen=True)

    content: str
    redacted: list[str]
    path_has_secret: bool = False
    vector: Vector | None = None

    def checked(self) -> "Prepared":
        """Return it; raises `InvalidRequestError` if there is a secret in the path, which nothing can stand for."""
        if self.path_has_secret:
            raise InvalidRequestError(
                "path: it looks like a secret, or has one in it",
                code="secret_in_path",
                field="path",
                next_step="choose a path that says what the memory is about",
            )
        return self


class Preparer(Protocol):
    """Prepares texts and questions. Raises `UnavailableError` rather than let a text through."""

    async def prepare(self, workspace_id: str, drafts: Sequence[Draft]) -> list[Prepared]:
        """Return what may be kept of each text."""
        ...

    async def question(self, workspace_id: str, text: str) -> Vector | None:
        """Return the vector of a question without its secrets, of the model that is searched with.

        None: search by words alone.
        """
        ...


class Unprepared:
    """A `Preparer` for an API without one: nothing is kept, and questions are looked for by words."""

    async def prepare(self, workspace_id: str, drafts: Sequence[Draft]) -> list[Prepared]:  # noqa: ARG002
        """Refuse."""
        raise unavailable()

    async def question(self, workspace_id: str, text: str) -> Vector | None:  # noqa: ARG002
        """Return no vector."""
        return None


def unavailable() -> Exception:
    """The error while nothing can take secrets out of a text."""
    return UnavailableError(
        "the part that takes secrets out of memories does not answer, so nothing is saved",
        code="memory_unavailable",
        next_step="try again in a moment; `bulkhead memory-worker` must run",
    )
