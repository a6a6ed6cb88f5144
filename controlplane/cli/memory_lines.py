"""The JSON lines that ``bulkhead memory`` exports and imports."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from controlplane.cli.failure import Failure
from controlplane.cli.server import Json

FIELDS = ("path", "content", "type", "created_at", "supersedes")
EXTRAS = ("untrusted", "size_limit", "json_schema", "protected", "expires_at")
"""What stands in a line only where it is set."""
MOST_AT_ONCE = 200
BYTES_AT_ONCE = 256 << 10
"""Two large memories at least. Far below what a request may have: secrets are looked for in all of it first."""


def read(file: Path | None) -> Iterator[Json]:
    """Yield what the lines of a file or of the standard input say; raises `Failure` with the number of a bad one."""
    try:
        text = sys.stdin.read() if file is None or str(file) == "-" else file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Failure(f"{file} cannot be read: {error}", code="unreadable_file", field="file") from error
    # Not `splitlines`: a content may have other ends of a line in it.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError as error:
            raise Failure(f"line {number} is no JSON: {error}", code="malformed_json", field="file") from error
        if not isinstance(value, dict):
            raise Failure(f"line {number} is no JSON object", code="malformed_json", field="file")
        yield {name: value[name] for name in (*FIELDS, *EXTRAS) if value.get(name) is not None}


def batches(lines: Iterator[Json]) -> Iterator[list[Json]]:
    """Yield what goes into one request each."""
    batch: list[Json] = []
    size = 0
    for line in lines:
        taken = len(json.dumps(line))
        if batch and (len(batch) == MOST_AT_ONCE or size + taken > BYTES_AT_ONCE):
            yield batch
            batch, size = [], 0
        batch.append(line)
        size += taken
    if batch:
        yield batch
