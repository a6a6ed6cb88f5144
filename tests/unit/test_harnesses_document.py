"""docs/harnesses.md says how long its example of an adapter is at most."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_example_is_as_short_as_the_document_says() -> None:
    document = (ROOT / "docs/harnesses.md").read_text()
    [most] = re.findall(r"in at most (\d+) lines together", document)
    files = list((ROOT / "examples/fifth_harness").glob("*.py"))
    assert {file.name for file in files} == {"adapter.py", "agent.py"}
    assert sum(len(file.read_text().splitlines()) for file in files) <= int(most)
