"""Cutting markdown into messages."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.frontdoors.pieces import cut

LINES = st.sampled_from(["", "word " * 5, "| a | b |", "|---|---|", "```python", "```", "~~~", "x" * 90, "# head"])


@given(st.lists(LINES, max_size=60).map("\n".join), st.integers(60, 400))
def test_no_piece_is_too_long_and_no_line_is_lost(markdown: str, limit: int) -> None:
    pieces = cut(markdown, limit)
    assert all(len(piece) <= limit for piece in pieces)
    left = "\n".join(pieces)
    for line in ("word", "x", "# head"):
        assert left.replace("\n", "").count(line) >= markdown.count(line)


@given(st.lists(st.sampled_from(["a word", "another", ""]), max_size=80).map("\n".join), st.integers(20, 200))
def test_paragraphs_come_back_as_they_were(markdown: str, limit: int) -> None:
    assert "".join("".join(cut(markdown, limit)).split()) == "".join(markdown.split())


def test_what_fits_is_one_piece() -> None:
    assert cut("one\n\ntwo", 100) == ["one\n\ntwo"]


def test_code_is_closed_and_opened_again() -> None:
    code = "```python\n" + "\n".join(f"line {n}" for n in range(20)) + "\n```"
    pieces = cut(code, 60)
    assert all(piece.startswith("```python\n") and piece.endswith("\n```") for piece in pieces)
    assert "".join(piece.removeprefix("```python\n").removesuffix("\n```") + "\n" for piece in pieces) == "".join(
        f"line {n}\n" for n in range(20)
    )


def test_a_table_has_its_head_in_every_piece() -> None:
    table = "| n | m |\n|---|---|\n" + "\n".join(f"| {n} | {n} |" for n in range(30))
    pieces = cut(table, 80)
    assert len(pieces) > 1
    assert all(piece.startswith("| n | m |\n|---|---|\n") for piece in pieces)
    assert all(sum(f"| {n} | {n} |" in piece for piece in pieces) == 1 for n in range(30))


def test_no_text_takes_long() -> None:
    """Each of these took hours when lines were looked at again and again."""
    for long in ("a|b\n" + " " * 1_000_000 + "x", "\n".join("x" * 300_000), "\n\n".join("x" * 300_000)):
        assert all(len(piece) <= 11_000 for piece in cut(long, 11_000))


@pytest.mark.parametrize(
    ("opening", "indent"), [("      ```python", "      "), ("- ```python", "  "), ("  10. ~~~", "      ")]
)
def test_code_in_a_list_is_closed_and_opened_again_where_it_stands(opening: str, indent: str) -> None:
    fence = opening.strip(" -10.")
    mark = fence[:3]
    code = "\n".join([opening, *(f"{indent}line {n}" for n in range(20)), indent + mark])
    first, *others = cut(f"Before.\n\n{code}\n\nAfter.", 90)[1:]
    assert first.startswith(f"{opening}\n")
    assert first.endswith(f"\n{indent}{mark}")
    assert all(each.startswith(f"{indent}{fence}\n{indent}line ") for each in others if "line" in each)
    assert all(each.count(mark) == 2 for each in (first, *others) if "line" in each)
    assert others[-1].endswith("After.")


def test_code_within_a_line_begins_no_block() -> None:
    """Three marks on both sides: all behind it would be taken for code."""
    pieces = cut("```inline```\n\n" + "\n\n".join("word " * 10 for _ in range(10)), 120)
    assert "".join(pieces).count("```") == 2


def test_a_table_right_under_a_line_of_text_is_one() -> None:
    table = "| n | m |\n|---|---|\n" + "\n".join(f"| {n} | {n} |" for n in range(30))
    first, *others = cut(f"What it comes to:\n{table}", 80)
    assert first == "What it comes to:"
    assert all(piece.startswith("| n | m |\n|---|---|\n") for piece in others)
