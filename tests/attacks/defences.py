"""Switches every defence off, one at a time, in a copy of the packages, and records which tests turn red.

`python -m tests.attacks.defences` prints the table, ``--write`` puts it into the README; words choose some defences.
It ends with 1 if a defence's removal turns nothing red, and raises if a defence's text is not where `removals.py`
says.

Everything runs in a network namespace with loopback only: no packet of an attack that succeeds leaves the machine.
The addresses that sandboxes try to reach are on that loopback, so that a way out is one. What is tried on pods stays
in the cluster of KUBECONFIG; where none answers these defences are left out.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from xml.etree import ElementTree

from tests.attacks.removals import REMOVALS, Removal
from tests.support import cluster

_ROOT = Path(__file__).parents[2]
_README = Path(__file__).with_name("README.md")
_COPIED = ("controlplane", "harness_adapters", "sandbox", "workflows", "tests", "pyproject.toml")
_BEGIN, _END = "<!-- measured: begin -->\n", "<!-- measured: end -->\n"
_SECONDS = 900
"""For the tests of one removal; each has a limit of its own, since some wait in vain for what was removed."""
_TEST_SECONDS = "60"
_AT_ONCE = 2
_ISLAND = "ip link set lo up; for a in 192.0.2.1 169.254.169.254 172.17.0.1; do ip address add $a/32 dev lo; done; "


def main() -> None:
    """Remove, test, restore; print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("words", nargs="*", help="only defences with one of these words")
    parser.add_argument("--write", action="store_true", help="put the table into the README")
    options = parser.parse_args()
    known = [each for each in REMOVALS if each.only != "kubernetes" or cluster.obstacle() is None]
    chosen = [each for each in known if not options.words or any(word in each.what for word in options.words)]
    with tempfile.TemporaryDirectory(prefix="bulkhead-defences-") as name, ThreadPoolExecutor(_AT_ONCE) as pool:
        copies: SimpleQueue[Path] = SimpleQueue()
        for number in range(_AT_ONCE):
            copies.put(_copy(Path(name, str(number))))
        _check_green(copies, chosen)
        found = list(zip(chosen, pool.map(lambda each: _red_without(copies, each), chosen), strict=True))
    table = _table(found)
    print(table)
    if options.write:
        before, _, rest = _README.read_text().partition(_BEGIN)
        _README.write_text(before + _BEGIN + table + _END + rest.partition(_END)[2])
    if missing := [removal.what for removal, red in found if not red]:
        sys.exit(f"nothing turns red without: {'; '.join(missing)}")


def _copy(copy: Path) -> Path:
    copy.mkdir()
    for name in _COPIED:
        source = _ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, copy / name)
    return copy


@contextmanager
def _taken(copies: SimpleQueue[Path]) -> Generator[Path]:
    copy = copies.get()
    try:
        yield copy
    finally:
        copies.put(copy)


def _check_green(copies: SimpleQueue[Path], chosen: list[Removal]) -> None:
    for only in sorted({each.only for each in chosen}):
        tests = sorted({test for each in chosen if each.only == only for test in each.tests})
        with _taken(copies) as copy:
            red, ran = _run(copy, tests, only)
        if red or not ran:
            raise RuntimeError(f"red with every defence in place ({ran} ran): {dict(red)}")


def _red_without(copies: SimpleQueue[Path], removal: Removal) -> Counter[str]:
    with _taken(copies) as copy:
        whole = {copy / edit.path: (copy / edit.path).read_text() for edit in removal.edits}
        try:
            for edit in removal.edits:
                (copy / edit.path).write_text(edit.applied((copy / edit.path).read_text()))
            red, _ = _run(copy, list(removal.tests), removal.only)
        finally:
            for path, text in whole.items():
                path.write_text(text)
            if removal.only == "docker" and any("/supervisor/" in edit.path for edit in removal.edits):
                _drop_volumes(copy)
    print(f"{removal.what}: {dict(red)}", file=sys.stderr, flush=True)
    return red


def _drop_volumes(copy: Path) -> None:
    """Take from the engine what the sandboxes without a defence were started from."""
    for path in (copy / "tmp" / "bulkhead-runtimes").glob("runtime-*"):
        subprocess.run(["docker", "volume", "rm", f"bulkhead-{path.name}"], capture_output=True, check=False)


def _run(copy: Path, tests: list[str], only: str) -> tuple[Counter[str], int]:
    """Return how often each test function failed, and how many tests ran; raises if they could not be collected."""
    report = copy / "report.xml"
    report.unlink(missing_ok=True)
    pytest = [sys.executable, "-m", "pytest", "-k", only, "--timeout", _TEST_SECONDS, "--no-header"]
    pytest += [f"--junitxml={report}", f"--basetemp={copy / 'tmp'}", *tests]
    island = [] if only == "kubernetes" else ["unshare", "--net", "sh", "-c", f'{_ISLAND} exec "$@"', "sh"]
    # Bytecode is found by a file's second and size, which a removal may leave as they were.
    environment = os.environ | {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [*island, *pytest], cwd=copy, env=environment, capture_output=True, text=True, check=False, timeout=_SECONDS
    )
    if not report.exists() or "error during collection" in done.stdout or "errors during collection" in done.stdout:
        raise RuntimeError(f"the tests did not run:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    red: set[tuple[str, str]] = set()
    ran = 0
    for case in ElementTree.parse(report).iter("testcase"):  # noqa: S314 - pytest wrote it
        ran += case.find("skipped") is None
        if case.find("failure") is not None or case.find("error") is not None:
            red.add((case.attrib["classname"].removeprefix("tests.").replace(".", "/"), case.attrib["name"]))
    return Counter(f"{file}::{name.partition('[')[0]}" for file, name in red), ran


def _table(found: list[tuple[Removal, Counter[str]]]) -> str:
    lines = ["| defence removed | in | tests that turn red |", "|---|---|---|"]
    for removal, red in found:
        tests = ", ".join(
            f"`{_short(name)}`{f' ×{count}' if count > 1 else ''}" for name, count in sorted(red.items())
        )
        places = ", ".join(f"`{path.removeprefix('sandbox/')}`" for path in {each.path: 0 for each in removal.edits})
        lines.append(f"| {removal.what} | {places} | {tests or '**none**'} |")
    return "\n".join(lines) + "\n"


def _short(name: str) -> str:
    return name.removeprefix("attacks/").replace("test_", "")


if __name__ == "__main__":
    main()
