"""Conditions on the commands of a command line: for all of them, or for any; pure."""

from collections.abc import Iterable, Sequence
from itertools import takewhile

from pydantic import BaseModel, ConfigDict, Field

from workflows.rules import runners
from workflows.rules.checked import Glob
from workflows.rules.pattern import fits_glob
from workflows.rules.shell import Script, ShellError, SimpleCommand, Word, read
from workflows.rules.value import certainly_fits, possibly_fits

MAX_ARGUMENTS = 32
REST = "**"
"""Among the globs of arguments: any number of arguments, of any kind."""

_DEEPEST = 4
"""How deep command lines may be quoted in one another before nobody follows any more."""

Truth = bool | None
"""None: it may hold."""


class CommandPattern(BaseModel):
    """What a simple command looks like. ``arguments``: a glob each, ``**`` for any number; omitted: any at all."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)

    program: Glob = Field(min_length=1)
    arguments: list[Glob] | None = Field(default=None, max_length=MAX_ARGUMENTS)


def all_fit(script: Script, patterns: Sequence[CommandPattern]) -> str | None:
    """Return None if every command is surely one of the patterns, else why that is not so."""
    if script.odd is not None:
        return f"it holds {script.odd}"
    if not script.commands:
        return "it holds no command"
    return next(filter(None, (_misfit(command, patterns) for command in script.commands)), None)


def any_fits(script: Script, patterns: Sequence[CommandPattern], *, depth: int = 0) -> Truth:
    """Say whether a command of the script, or one that it runs in turn, is one of the patterns."""
    return _either(_touches(command, patterns, depth) for command in script.commands)


def _misfit(command: SimpleCommand, patterns: Sequence[CommandPattern]) -> str | None:
    shown = command.program if command.program is not None else "a program that only the shell knows"
    if not any(_surely_fits(command, pattern) for pattern in patterns):
        return f"it runs {shown}, and not only in a way that the rule names"
    if not runners.understood(command):
        return f"it is not known what {shown} runs"
    inner = runners.inner(command)
    return _misfit(inner, patterns) if inner is not None else None


def _surely_fits(command: SimpleCommand, pattern: CommandPattern) -> bool:
    if command.program is None or not certainly_fits(pattern.program, command.program):
        return False
    return pattern.arguments is None or _sequence(pattern.arguments, command.arguments, surely=True)


def _touches(command: SimpleCommand, patterns: Sequence[CommandPattern], depth: int) -> Truth:
    found: list[Truth] = []
    for each in (command, *runners.perhaps_inner(command)):
        found += [_perhaps_fits(each, pattern) for pattern in patterns]
        found += [_text_touches(text, patterns, depth) for text in runners.texts(each)]
    return _either(found)


def _text_touches(text: Word, patterns: Sequence[CommandPattern], depth: int) -> Truth:
    if text is None or depth == _DEEPEST:
        return None
    try:
        return any_fits(read(text), patterns, depth=depth + 1)
    except ShellError:
        return None


def _perhaps_fits(command: SimpleCommand, pattern: CommandPattern) -> Truth:
    program = command.program
    if program is None:  # It may be several words, and then the first of them are arguments, or run the others.
        return None
    if not any(fits_glob(pattern.program, each) for each in (program, runners.name(program))):
        return False
    if pattern.arguments is None:
        fits = surely = True
    else:
        fits = _sequence(pattern.arguments, command.arguments, surely=False)
        surely = None not in command.arguments or pattern.arguments == [REST]
    return False if not fits else True if surely else None


def _sequence(globs: Sequence[str], words: Sequence[Word], *, surely: bool) -> bool:
    """Say whether globs fit words one by one; an unknown word may be any number of words."""
    fits = certainly_fits if surely else possibly_fits
    at = {0}
    for word in words:
        at |= {n + 1 for n in _past_rests(globs, at)}
        if word is None and surely:
            at = {n for n in at if n < len(globs) and globs[n] == REST}
        elif word is None:
            at = set(range(min(at), len(globs) + 1)) if at else set()
        else:
            at = {
                n if globs[n] == REST else n + 1
                for n in at
                if n < len(globs) and (globs[n] == REST or fits(globs[n], word))
            }
    return any(all(glob == REST for glob in globs[n:]) for n in at)


def _past_rests(globs: Sequence[str], at: set[int]) -> set[int]:
    """Return the positions of every ``**`` that may stand for nothing."""
    found: set[int] = set()
    for start in at:
        found.update(takewhile(lambda n: globs[n] == REST, range(start, len(globs))))
    return found


def _either(found: Iterable[Truth]) -> Truth:
    values = list(found)
    return True if True in values else None if None in values else False
