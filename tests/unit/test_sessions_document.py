"""docs/sessions.md shows what the code's own tables say."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from workflows.failures import Cause, failure
from workflows.machine import TABLE, State, diagram
from workflows.records import CallState

TEXT = (Path(__file__).parents[2] / "docs" / "sessions.md").read_text()


def names(literal: Any) -> Iterator[Any]:
    """Yield the values of a literal type, and of those that it is made of."""
    for part in get_args(literal):
        yield from names(part) if get_args(part) else [part]


def test_the_diagram_is_the_tables_own() -> None:
    assert f"```mermaid\n{diagram()}\n```" in TEXT


def test_every_cause_and_every_state_of_a_call_is_explained() -> None:
    causes: list[Cause] = list(names(Cause))
    for cause in causes:
        found = failure(cause, "why")
        assert f"| `{cause}` | {found.status} | {found.next_step} |" in TEXT
    for state in names(CallState):
        assert f"| `{state}` |" in TEXT


def test_the_table_is_whole() -> None:
    assert set(TABLE) == set(get_args(State))
    assert all({"wake", "interrupt"} <= set(happenings) for happenings in TABLE.values())
