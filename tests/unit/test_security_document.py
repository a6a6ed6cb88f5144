"""docs/security.md promises nothing without a test that is there."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def existing_tests() -> set[str]:
    """Return the name of every test function."""
    modules = [ast.parse(path.read_text()) for path in (ROOT / "tests").rglob("test_*.py")]
    functions = (node for module in modules for node in ast.walk(module))
    return {each.name for each in functions if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_every_test_and_every_module_that_the_security_document_names_exists() -> None:
    named = set(re.findall(r"`(?:tests/\w+/)?(test_\w+)(\.py)?`", (ROOT / "docs" / "security.md").read_text()))
    modules = {path.name for path in (ROOT / "tests").rglob("test_*.py")}
    functions = {name for name, suffix in named if not suffix}
    assert len(functions) > 50
    assert functions - existing_tests() == set()
    assert {name + suffix for name, suffix in named if suffix} - modules == set()


def test_every_promise_names_a_test() -> None:
    text = (
        (ROOT / "docs" / "security.md")
        .read_text()
        .partition("## What is promised")[2]
        .partition("## Not promised")[0]
    )
    promises = re.split(r"^- ", text, flags=re.MULTILINE)[1:]
    assert len(promises) > 20
    assert [each for each in promises if "`test_" not in each] == []
