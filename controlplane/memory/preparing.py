"""What a text goes through before it is kept: secrets out, then its vector; a part of its own does it for all."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, cast

from pydantic import BaseModel, ConfigDict, Field

from controlplane.errors import InvalidRequestError, UnavailableError
from controlplane.store.memory_vectors import Vector


class Draft(BaseModel):
    """A text that somebody wants to keep, and the path for it.

    ``beside``: what else is kept, by its field, of which nothing can be taken out.
    """

    model_config = ConfigDict(frozen=True)

    path: str
    content: str
    beside: dict[str, list[str]] = Field(default_factory=dict[str, list[str]])


class Prepared(BaseModel):
    """What may be kept of it. ``redacted``: the kinds of secrets that were in it. ``secret_in``: another field."""

    model_config = ConfigDict(frozen=True)

    content: str
    redacted: list[str]
    secret_in: str | None = None
    vector: Vector | None = None

    def checked(self) -> "Prepared":
        """Return it; raises `InvalidRequestError` if there is a secret where nothing can stand for it."""
        if self.secret_in is not None:
            raise InvalidRequestError(
                f"{self.secret_in}: it looks like a secret, or has one in it",
                code=f"secret_in_{self.secret_in}",
                field=self.secret_in,
                next_step="leave the secret out, and say what it is about",
            )
        return self


def beside(*, supersedes: str | None = None, json_schema: Mapping[str, Any] | None = None) -> dict[str, list[str]]:
    """Return what is kept beside the content of a memory as a draft has it."""
    given = {"supersedes": [supersedes or ""], "json_schema": list(_strings(json_schema))}
    return {field: texts for field, texts in given.items() if any(texts)}


def _strings(value: Any) -> Iterator[str]:
    """Yield every text in a JSON value, names too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, each in cast("Mapping[str, Any]", value).items():
            yield name
            yield from _strings(each)
    elif isinstance(value, list):
        for each in cast("list[Any]", value):
            yield from _strings(each)


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
