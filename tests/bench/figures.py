"""What the benchmark reports: a figure, its spread, its goal, and the floor that was measured in the same run."""

import statistics
import sys
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """One line of the report; values in the unit."""

    name: str
    unit: str
    goal: str
    median: float
    p95: float
    samples: int
    floor: str = ""


def figure(name: str, values: list[float], *, unit: str = "ms", goal: str = "", floor: str = "") -> Figure:
    """Summarise measured values."""
    return Figure(name, unit, goal, statistics.median(values), p95(values), len(values), floor)


def p95(values: list[float]) -> float:
    """Return the value that one in twenty exceeds."""
    ordered = sorted(values)
    return ordered[round(0.95 * (len(ordered) - 1))]


def p99(values: list[float]) -> float:
    """Return the value that one in a hundred exceeds."""
    ordered = sorted(values)
    return ordered[round(0.99 * (len(ordered) - 1))]


def said(values: list[float], what: str) -> str:
    """A floor, as the report shows it."""
    return f"{what} {statistics.median(values):.1f} ms"


def progress(what: str) -> None:
    """Tell whoever waits what is being measured."""
    print(f"measuring {what} …", file=sys.stderr, flush=True)
