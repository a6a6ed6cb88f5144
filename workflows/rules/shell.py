"""What a shell command line runs, as far as a parser can tell; pure.

The parser (tree-sitter's grammar of bash) takes more than bash does and repairs what it does not understand. So a
command line counts as *plain* only if every piece of it is of a kind named here, stands where it may, and is spelled
without anything that changes what the shell makes of it. What is not plain is still searched for commands.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tree_sitter import Node, Parser

Word = str | None
"""A word as the program gets it; None if only the shell that runs it knows."""


class ShellError(ValueError):
    """A command line that the parser does not understand."""


@dataclass(frozen=True)
class SimpleCommand:
    """A program and its arguments."""

    program: Word
    arguments: tuple[Word, ...] = ()


@dataclass(frozen=True)
class Script:
    """Every simple command of a command line, wherever in it. ``odd``: what keeps it from being plain."""

    commands: tuple[SimpleCommand, ...]
    odd: str | None


_BLANKS = re.compile(r"(?:\\\n)*[ \t](?:[ \t]|\\\n)*")
_SPACE = re.compile(r"(?:[ \t\n]|\\\n)*")
_PLAIN_WORD = re.compile(r"(?:[^\s\\'\"`$;&|<>()]|\\[^\n])+")
_RAW_STRING = re.compile(r"'[^']*'")
_IN_STRING = re.compile(r"[^\"\\`$]*")
_VARIABLE = re.compile(r"\$(?:\w+|[#?@*!$-])|\$\{[A-Za-z_]\w*\}", re.ASCII)
_EXPANDED = re.compile(r"(?<!\\)(?:\\\\)*[*?\[\]]|^~|[:=]~")
_BRACES = re.compile(r"(?<!\\)(?:\\\\)*\{")
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_ESCAPED_IN_STRING = re.compile(r"\\([\\\"$`\n])")

_PLAIN_NODES = frozenset(
    [
        "program",
        "list",
        "pipeline",
        "subshell",
        "redirected_statement",
        "command_substitution",
        "process_substitution",
    ]
)
_PLAIN_MARKS = frozenset([";", "&", "&&", "||", "|", "|&", "(", ")", "$(", "<(", ">("])
_COMMAND_NODES = frozenset(["command", "declaration_command", "unset_command", "test_command"])
_REDIRECTS = frozenset(["file_redirect", "heredoc_redirect", "herestring_redirect"])

_DEEPEST = 100
"""Deeper than anybody nests commands; the time to walk a tree grows with its depth."""

_MOST_NODES = 20_000
"""What is longer takes longer than others should wait."""


@lru_cache(maxsize=256)
def read(text: str) -> Script:
    """Return what a command line runs; raises `ShellError` if it is not to be understood."""
    if "\0" in text:
        raise ShellError("it holds a NUL character")
    source = text.encode(errors="replace")
    root = _parser().parse(source).root_node
    if root.has_error:
        raise ShellError("the parser does not understand it")
    nodes = list(islice(_all(root), _MOST_NODES + 1))
    if len(nodes) > _MOST_NODES:
        raise ShellError("it is too long")
    commands = tuple(_command(node) for node, _ in nodes if node.type in _COMMAND_NODES)
    odd = next(_oddities(text, nodes, source), None)
    return Script(commands=commands, odd=odd)


@lru_cache(maxsize=1)
def _parser() -> "Parser":
    import tree_sitter
    import tree_sitter_bash

    return tree_sitter.Parser(tree_sitter.Language(tree_sitter_bash.language()))


def _all(root: "Node") -> Iterator[tuple["Node", str]]:
    """Yield every node, in the order of the text, with its parent's type."""
    waiting = [(root, "", 0)]
    while waiting:
        node, parent, depth = waiting.pop()
        if depth > _DEEPEST:
            raise ShellError("it is nested too deeply")
        yield node, parent
        waiting.extend((child, node.type, depth + 1) for child in reversed(node.children))


def _text(node: "Node") -> str:
    return (node.text or b"").decode(errors="replace")


def _command(node: "Node") -> SimpleCommand:
    if node.type != "command":
        first, *rest = node.children
        return SimpleCommand(program=_text(first), arguments=tuple(map(_word, rest)))
    name = node.child_by_field_name("name")
    if name is None:
        return SimpleCommand(program="")
    words = [each for each in node.children if each.start_byte >= name.end_byte and each.type not in _REDIRECTS]
    return SimpleCommand(program=_word(name), arguments=tuple(map(_word, words)))


def _word(node: "Node") -> Word:
    match node.type:
        case "command_name" if len(node.children) == 1:
            return _word(node.children[0])
        case "word" | "number" | "test_operator":
            return _unquoted(_text(node))
        case "raw_string":
            return _text(node)[1:-1]
        case "string" if all(child.type in {'"', "string_content"} for child in node.children):
            return _ESCAPED_IN_STRING.sub(lambda found: found[1].strip("\n"), _text(node)[1:-1])
        case "concatenation":
            parts = [_word(child) for child in node.children]
            known = [part for part in parts if part is not None]
            bare = "".join(_text(child) for child in node.children if child.type == "word")
            return None if len(known) < len(parts) or _has_braces(bare, _text(node)) else "".join(known)
        case _:
            return None


def _unquoted(text: str) -> Word:
    return (
        None
        if _EXPANDED.search(text) or _has_braces(text, text)
        else _ESCAPED.sub(lambda found: found[1].strip("\n"), text)
    )


def _has_braces(bare: str, text: str) -> bool:
    return bool(_BRACES.search(bare)) and ("," in text or ".." in text)


def _oddities(text: str, nodes: Sequence[tuple["Node", str]], source: bytes) -> Iterator[str]:
    """Yield what keeps a command line from being plain."""
    if not all(char.isprintable() or char in "\n\t" for char in text):
        yield "a character that is not printed"
    for node, parent in nodes:
        kind = node.type
        if kind in _PLAIN_NODES:
            yield from _gap_oddities(node, source)
        elif kind == "command":
            yield from _command_oddities(node, source)
        elif kind == "file_redirect":
            yield from _redirect_oddities(node)
        elif parent in _PLAIN_NODES and kind not in (_PLAIN_MARKS if not node.is_named else {"comment"}):
            yield _named(node)


_NAMES = {
    "ansi_c_string": "a $'…' string",
    "heredoc_redirect": "a here-document",
    "herestring_redirect": "a here-string",
    "variable_assignment": "an assignment",
}


def _named(node: "Node") -> str:
    if not node.is_named:
        return f"{node.type!r}"
    plainly = node.type.replace("_", " ")
    return _NAMES.get(node.type, f"{'an' if plainly[0] in 'aeiou' else 'a'} {plainly}")


def _gap_oddities(node: "Node", source: bytes) -> Iterator[str]:
    """Yield an oddity unless only blanks and newlines stand around the parts of a node."""
    at = 0 if node.type == "program" else node.start_byte
    for child in node.children:
        gap = source[at : child.start_byte].decode(errors="replace")
        if not _SPACE.fullmatch(gap):
            yield "something that the parser has skipped"
        if child.type == "comment" and not gap and at:
            yield "a comment where none can begin"
        if child.type == "file_redirect" and not _BLANKS.fullmatch(gap):
            yield "a redirection without a blank before it"
        at = child.end_byte
    end = len(source) if node.type == "program" else node.end_byte
    if not _SPACE.fullmatch(source[at:end].decode(errors="replace")):
        yield "something that the parser has skipped"
    if node.type == "command_substitution" and node.children[0].type != "$(":
        yield "a command in backquotes"


def _command_oddities(node: "Node", source: bytes) -> Iterator[str]:
    at: int | None = None
    for child in node.children:
        if at is not None and not _BLANKS.fullmatch(source[at : child.start_byte].decode(errors="replace")):
            yield "words that are not set apart by blanks"
        at = child.end_byte
        if child.type == "file_redirect":
            continue
        if child.type in _REDIRECTS or child.type == "variable_assignment":
            yield _named(child)
        else:
            yield from _word_oddities(child)


def _word_oddities(node: "Node") -> Iterator[str]:
    match node.type:
        case "command_name" if len(node.children) == 1:
            yield from _word_oddities(node.children[0])
        case "word" | "number" if _PLAIN_WORD.fullmatch(_text(node)) and not _text(node).startswith("#"):
            pass
        case "raw_string" if _RAW_STRING.fullmatch(_text(node)):
            pass
        case "simple_expansion" | "expansion" if _VARIABLE.fullmatch(_text(node)):
            pass
        case "string":
            yield from _string_oddities(node)
        case "concatenation":
            at = node.start_byte
            for child in node.children:
                if child.start_byte != at:
                    yield "words that are not set apart by blanks"
                at = child.end_byte
                yield from _word_oddities(child)
        case "command_substitution" | "process_substitution" | "brace_expression":
            pass
        case _:
            yield _named(node)


def _string_oddities(node: "Node") -> Iterator[str]:
    """Yield an oddity unless a double-quoted string is made of text, variables and commands only."""
    body = (node.text or b"")[1:-1]
    start = node.start_byte + 1
    for child in reversed(node.children):
        if child.type in {"simple_expansion", "expansion"}:
            yield from _word_oddities(child)
        if child.type in {"simple_expansion", "expansion", "command_substitution"}:
            body = body[: child.start_byte - start] + body[child.end_byte - start :]
        elif child.type not in {'"', "string_content"}:
            yield _named(child)
    if not _IN_STRING.fullmatch(body.decode(errors="replace")):
        yield "an escape in a string"


def _redirect_oddities(node: "Node") -> Iterator[str]:
    """Yield an oddity unless a redirection only moves an open file, or goes to /dev/null."""
    shown = re.sub(r"\s+", "", _text(node))
    if not re.fullmatch(r"[0-9]?(?:>&[0-9]|<&[0-9]|>>?/dev/null|&>>?/dev/null|</dev/null)", shown):
        yield "a redirection to a file"
