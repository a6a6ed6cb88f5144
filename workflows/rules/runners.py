"""Programs that run other programs, and what of their arguments that is; pure."""

import re
from collections.abc import Iterator
from posixpath import basename

from workflows.rules.shell import SimpleCommand, Word

_RUNNERS = {
    "builtin": 0,
    "busybox": 0,
    "chroot": 1,
    "command": 0,
    "coproc": 0,
    "doas": 0,
    "env": 0,
    "exec": 0,
    "fakeroot": 0,
    "flock": 1,
    "ionice": 0,
    "nice": 0,
    "nohup": 0,
    "nsenter": 0,
    "parallel": 0,
    "setsid": 0,
    "stdbuf": 0,
    "strace": 0,
    "sudo": 0,
    "time": 0,
    "timeout": 1,
    "unshare": 0,
    "watch": 0,
    "xargs": 0,
}
"""How many arguments come before the command that they run, when they are given no options."""

_SHELLS = frozenset(["ash", "bash", "busybox", "dash", "fish", "ksh", "mksh", "rbash", "sh", "zsh"])
_TEXT_RUNNERS = frozenset(["eval", "env", "parallel", "script", "ssh", "su", "trap", "watch"])
_NEVER_KNOWN = frozenset(
    [
        ".", "alias", "bind", "complete", "enable", "eval", "exec", "hash", "mapfile", "parallel", "readarray",
        "script", "set", "shopt", "source", "ssh", "su", "trap", "unalias", "watch",
    ]
)  # fmt: skip
"""What runs text, or changes what later commands of the same line mean."""

_FIND_RUNS = frozenset(["-exec", "-execdir", "-ok", "-okdir"])
_NO_PROGRAM = re.compile(r"[-+].*|[A-Za-z_]\w*=.*|[0-9.]+[a-z]?", re.DOTALL)
_REPLACES = re.compile(r"-[A-Za-z]*[Ii]|--replace")
"""How xargs is told to put what it reads in place of a word."""


def name(program: str) -> str:
    """Return a program's name without its folder."""
    return basename(program)


def understood(command: SimpleCommand) -> bool:
    """Say whether it is known what the command runs: itself, or what `inner` returns."""
    if command.program is None or name(command.program) in _NEVER_KNOWN:
        return False
    called = name(command.program)
    if called in _SHELLS and called not in _RUNNERS:
        first = command.arguments[0] if command.arguments else None
        return bool(first) and not _NO_PROGRAM.fullmatch(first)
    if called == "find":
        return not any(word is None or word in _FIND_RUNS for word in command.arguments)
    return called not in _RUNNERS or inner(command) is not None


def inner(command: SimpleCommand) -> SimpleCommand | None:
    """Return the command that a command without options runs; None if it runs none, or that is not sure."""
    called = name(command.program or "")
    if called not in _RUNNERS:
        return None
    start = _RUNNERS[called]
    before, rest = command.arguments[:start], command.arguments[start:]
    if any(word is None or word.startswith("-") for word in before) or not rest:
        return None
    if rest[0] is None or _NO_PROGRAM.fullmatch(rest[0]):
        return None
    more: tuple[Word, ...] = (None,) if called == "xargs" else ()
    return SimpleCommand(program=rest[0], arguments=(*rest[1:], *more))


def perhaps_inner(command: SimpleCommand) -> Iterator[SimpleCommand]:
    """Yield every command that the command may run: each of its arguments could be the program."""
    called = name(command.program or "")
    if called not in _RUNNERS and called not in _SHELLS and called != "find":
        return
    may_be_value = settled = False
    given = _as_given(called, command.arguments)
    for index, word in enumerate(command.arguments):
        if word is not None or not settled:
            yield SimpleCommand(program=word, arguments=given[index + 1 :])
        if word is not None and _NO_PROGRAM.fullmatch(word):
            may_be_value = word.startswith("-")
        else:
            settled = settled or not may_be_value or called == "find"
            may_be_value = False


def _as_given(called: str, words: tuple[Word, ...]) -> tuple[Word, ...]:
    """Return a runner's arguments as the command that it runs gets them: it puts in what only it knows."""
    if called == "find":
        return tuple(None if word is None or "{}" in word else word for word in words)
    replaces = called == "parallel" or any(word and _REPLACES.match(word) for word in words)
    if called in {"parallel", "xargs"}:
        return (*((None,) * len(words) if replaces else words), None)
    return words


def texts(command: SimpleCommand) -> Iterator[Word]:
    """Yield the command lines that the command has a shell run; None for one that is not known."""
    called = name(command.program or "")
    words = command.arguments
    if called in _SHELLS:
        at = next((n for n, word in enumerate(words) if word and re.fullmatch(r"-[A-Za-z]*c", word)), None)
        if at is not None:
            yield words[at + 1] if at + 1 < len(words) else None
        elif called != "busybox" and all(word and _NO_PROGRAM.fullmatch(word) for word in words):
            yield None  # it reads its standard input
    elif called == "eval":
        known = [word for word in words if word is not None]
        yield " ".join(known) if len(known) == len(words) else None
    elif called in {"alias", ".", "source"}:
        yield None
    elif called in _TEXT_RUNNERS:
        yield from (word for word in words if word and " " in word)
