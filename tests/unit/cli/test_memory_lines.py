"""What goes into one request of an import, and where a line ends."""

import json
from pathlib import Path

from controlplane.cli import memory_lines


def test_a_line_ends_where_json_lines_do(tmp_path: Path):
    lines = [
        {"path": f"/{number}", "content": f"a{end}b"} for number, end in enumerate("\u2028\u2029\u0085\x0b\x1c\r")
    ]
    file = tmp_path / "lines"
    file.write_text("\n\n".join(json.dumps(line, ensure_ascii=False) for line in lines), encoding="utf-8")
    assert list(memory_lines.read(file)) == lines


def test_a_request_has_no_more_than_it_may():
    lines = [{"path": f"/{number}", "content": "x" * (100_000 if number % 7 else 1)} for number in range(900)]
    found = list(memory_lines.batches(iter(lines)))
    assert [line for batch in found for line in batch] == lines
    assert max(len(json.dumps(batch)) for batch in found) < 300_000
    assert [len(batch) for batch in memory_lines.batches(iter([{"path": "/a"}] * 450))] == [200, 200, 50]
    assert list(memory_lines.batches(iter([]))) == []
