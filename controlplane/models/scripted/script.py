"""What a script may say, and how it is found and read."""

import hashlib
import json
import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

_FENCE = re.compile(r"^[ \t]*```script[ \t]*\r?\n(.*?)^[ \t]*```", re.DOTALL | re.MULTILINE)


class ScriptError(Exception):
    """A script that cannot be played; the message names the step and what is wrong with it."""


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ScriptedCall(_Strict):
    """A tool call; ``raw_input`` is sent as it stands, JSON or not."""

    name: str
    input: dict[str, Any] = Field(default_factory=dict)
    raw_input: str | None = None

    @property
    def arguments(self) -> str:
        """The input as it goes over the wire."""
        return json.dumps(self.input, ensure_ascii=False) if self.raw_input is None else self.raw_input


class Failure(_Strict):
    """How a step misbehaves before it is played."""

    status: Annotated[int, Field(ge=400, le=599)] | None = None
    times: int = Field(default=1, ge=1)
    message: str = "failed as the script asked"
    retry_after_seconds: float | None = Field(default=None, ge=0)
    after_chunks: int | None = Field(default=None, ge=0)
    hang_seconds: float = Field(default=0, ge=0)
    garbage: bool = False


class Step(_Strict):
    """One answer of the model."""

    text: str | None = None
    thinking: str | None = None
    tools: list[ScriptedCall] = Field(default_factory=list)
    stop_reason: Literal["max_tokens", "refusal"] | None = None
    first_byte_ms: float = Field(default=0, ge=0)
    chunk_ms: float = Field(default=0, ge=0)
    chunk_chars: int = Field(default=24, ge=1)
    fail: Failure | None = None

    @model_validator(mode="after")
    def _says_something(self) -> "Step":
        if not (self.text or self.thinking or self.tools or self.fail):
            raise ValueError("a step needs text, thinking, tools or fail")
        return self


class Script(_Strict):
    """The steps, and a digest that names them."""

    steps: list[Step]
    digest: str


_STEPS = TypeAdapter(list[Step])


def find_script(text: str) -> str | None:
    """Return the content of the last ``script`` block in ``text``."""
    blocks = _FENCE.findall(text)
    return blocks[-1] if blocks else None


def read_script(source: str) -> Script:
    """Return the script that ``source`` spells; raises `ScriptError`."""
    try:
        steps = _STEPS.validate_python(json.loads(source))
    except ValidationError as error:
        raise ScriptError(_first_problem(error)) from error
    except (ValueError, RecursionError) as error:
        raise ScriptError(f"it is not JSON: {error}") from error
    if not steps:
        raise ScriptError("it has no steps")
    return Script(steps=steps, digest=hashlib.sha256(source.encode("utf-8", "surrogatepass")).hexdigest())


def _first_problem(error: ValidationError) -> str:
    problem = error.errors(include_url=False)[0]
    if not problem["loc"]:
        return "it must be a JSON list of steps"
    step, *field = problem["loc"]
    where = f"step {int(step) + 1}" + (f", field {'.'.join(map(str, field))}" if field else "")
    return f"{where}: {problem['msg']}"
