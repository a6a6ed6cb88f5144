"""What a command could not do, as one readable paragraph or as JSON."""

import json
import textwrap

_WIDTH = 100


class Failure(Exception):
    """A command failed; what the server said of it goes along."""

    def __init__(self, message: str, *, code: str, field: str | None = None, next_step: str | None = None):
        super().__init__(message)
        self.message = message
        self.code = code
        self.field = field
        self.next_step = next_step


def as_json(failure: Failure) -> str:
    """Return the failure for programs, in the form of the API's errors."""
    known = {name: getattr(failure, name) for name in ("code", "message", "field", "next_step")}
    return json.dumps({"error": known}, ensure_ascii=False)


def explain(failure: Failure, *, colours: bool) -> str:
    """Return the paragraph: message, field and code, next step."""
    about = f"{failure.code}, {failure.field}" if failure.field else failure.code
    sentence = failure.message.rstrip(".")
    text = f"{sentence} [{about}]."
    if failure.next_step:
        text += f" Next: {failure.next_step.rstrip('.')}."
    head = "\x1b[31mError:\x1b[0m" if colours else "Error:"
    return f"{head} " + textwrap.fill(text, _WIDTH, break_long_words=False, break_on_hyphens=False)
