"""How a command shows what it found: a table or a few lines for people, JSON for programs."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

Json = Mapping[str, Any]


class Output:
    """Writes to stdout; colours only on a terminal."""

    def __init__(self, *, as_json: bool):
        self.as_json = as_json
        self.console = Console(highlight=False, soft_wrap=True)

    def table(self, rows: Iterable[Json], columns: Sequence[str]) -> None:
        """Show objects as rows of these fields (dotted paths); as JSON, whole."""
        found = list(rows)
        if self.as_json:
            self.json(found)
            return
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in columns:
            table.add_column(column.rpartition(".")[2].upper(), overflow="fold", no_wrap=column == "id")
        for row in found:
            table.add_row(*(Text(_cell(_field(row, column))) for column in columns))
        wide = Console(highlight=False, width=None if sys.stdout.isatty() else 250)
        wide.print(table if found else "(none)")

    def object(self, value: Json, fields: Sequence[str]) -> None:
        """Show one object: these fields, a line each; as JSON, whole."""
        if self.as_json:
            self.json(value)
            return
        width = max(len(name) for name in fields)
        for name in fields:
            self.console.print(f"[bold]{name:<{width}}[/bold]  ", end="")
            self.console.print(_cell(_field(value, name)), markup=False)

    def json(self, value: Any) -> None:
        """Print a value as JSON."""
        sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")

    def json_line(self, value: Any) -> None:
        """Print a value as JSON on one line, at once."""
        sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")
        sys.stdout.flush()

    def line(self, text: str, *, style: str | None = None) -> None:
        """Print a line of text as it is."""
        self.console.print(text, style=style, markup=False)


def _field(value: Json, path: str) -> Any:
    found: Any = value
    for name in path.split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, str):
        return _time(value)
    return json.dumps(value, ensure_ascii=False)


def _time(text: str) -> str:
    if len(text) < 20 or text[4:5] != "-" or text[10:11] != "T":
        return text
    try:
        return datetime.fromisoformat(text).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    except ValueError:
        return text
