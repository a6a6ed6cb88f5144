"""Cutting markdown into messages: at the borders of its blocks, and never losing a line."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

_FENCE = re.compile(r"([ \t]*)((?:[-*+]|\d{1,9}[.)])[ \t]+)?(?:(`{3,})([^`]*)|(~{3,})(.*))")
"""A line that begins code, however deep in a list: its indent, a list's mark, the fence and what follows it."""

_RULE = re.compile(r":?-+:?")
"""A cell of the line below a table's head."""


@dataclass(frozen=True)
class _Block:
    """Lines that belong together; each further piece of it begins with ``head`` and each but the last ends with
    ``tail``."""

    lines: list[str]
    head: list[str]
    tail: list[str]


def cut(markdown: str, limit: int) -> list[str]:
    """Return ``markdown`` in pieces of at most ``limit`` characters.

    A paragraph, a table or a code block is cut only if it is longer than that by itself; then a code block is closed
    and opened again, and a table's head is repeated.
    """
    pieces: list[str] = []
    room: list[str] = []
    taken = 0
    for block in _blocks(markdown.split("\n")):
        length = _length(block.lines)
        if room and taken + 1 + length <= limit:
            room += block.lines
            taken += 1 + length
            continue
        if room:
            pieces.append("\n".join(room))
            room = []
        if length <= limit:
            room, taken = list(block.lines), length
        else:
            *whole, room = _torn(block, limit)
            pieces += ["\n".join(each) for each in whole]
            taken = _length(room)
    return [piece for piece in [*pieces, "\n".join(room)] if piece.strip()]


def _length(lines: list[str]) -> int:
    return sum(map(len, lines)) + max(0, len(lines) - 1)


def _blocks(lines: list[str]) -> Iterator[_Block]:
    at = 0
    while at < len(lines):
        fence = _FENCE.fullmatch(lines[at])
        if fence is not None:
            indent, mark = fence[1] + " " * len(fence[2] or ""), fence[3] or fence[5]
            end = _end_of_code(lines, at, mark)
            yield _Block(lines[at:end], [indent + lines[at][len(indent) :]], [indent + mark])
        elif _is_table(lines, at):
            end = next((n for n in range(at, len(lines)) if "|" not in lines[n]), len(lines))
            yield _Block(lines[at:end], lines[at : at + 2], [])
        else:
            end = next((n for n in range(at + 1, len(lines)) if _ends_paragraph(lines, n)), None)
            end = len(lines) if end is None else end + (not lines[end].strip())
            yield _Block(lines[at:end], [], [])
        at = end


def _ends_paragraph(lines: list[str], at: int) -> bool:
    return not lines[at].strip() or _FENCE.fullmatch(lines[at]) is not None or _is_table(lines, at)


def _is_table(lines: list[str], at: int) -> bool:
    return "|" in lines[at] and at + 1 < len(lines) and _is_rule(lines[at + 1])


def _is_rule(line: str) -> bool:
    """Say whether a line is the one below a table's head."""
    cells = line.strip().removeprefix("|").removesuffix("|").split("|")
    return "|" in line and all(_RULE.fullmatch(cell.strip()) for cell in cells)


def _end_of_code(lines: list[str], at: int, mark: str) -> int:
    for n in range(at + 1, len(lines)):
        closing = lines[n].strip()
        if closing.startswith(mark) and not closing.strip(mark[0]):
            return n + 1
    return len(lines)


def _torn(block: _Block, limit: int) -> Iterator[list[str]]:
    frame = _length(block.head) + _length(block.tail) + 2
    head, tail = (block.head, block.tail) if frame * 2 < limit else ([], [])
    room = limit - _length(tail) - 1
    piece: list[str] = []
    taken = 0
    for line in _short(block.lines, limit - frame if head else limit):
        if piece and taken + len(line) > room:
            yield piece + tail
            piece = list(head)
            taken = sum(len(each) + 1 for each in piece)
        piece.append(line)
        taken += len(line) + 1
    yield piece


def _short(lines: list[str], limit: int) -> Iterator[str]:
    for line in lines:
        rest = line
        while len(rest) > limit:
            at = rest.rfind(" ", limit // 2, limit) + 1 or limit
            yield rest[:at]
            rest = rest[at:]
        yield rest
