"""What process 1 has instead of the module typing."""

import subprocess
import sys
from pathlib import Path

import pytest

from sandbox.supervisor.output import Verdict
from sandbox.supervisor.tar import FILE, Entry

ROOT = Path(__file__).parents[3]


def test_process_1_starts_without_typing():
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import sandbox.supervisor.server; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    assert "sandbox.supervisor.server" in loaded.stdout.split()
    assert not {"typing", "inspect", "pathlib"} & set(loaded.stdout.split())


def test_a_named_tuple_is_a_tuple_with_names_and_defaults():
    verdict = Verdict("exited", 0, duration_ms=1.5, survivors=2)
    assert (verdict.status, verdict.exit_code, verdict.duration_ms, verdict.survivors) == ("exited", 0, 1.5, 2)
    assert verdict == ("exited", 0, 1.5, 2)
    assert list(verdict._asdict()) == ["status", "exit_code", "duration_ms", "survivors"]
    assert Entry(b"name", FILE, 0o600) == (b"name", FILE, 0o600, 0, 0, b"")


@pytest.mark.parametrize(("values", "named"), [((1, 2, 3), {}), ((1, 2, 3, 4, 5), {}), ((1, 2, 3, 4), {"other": 5})])
def test_a_named_tuple_is_whole(values: tuple[int, ...], named: dict[str, int]):
    with pytest.raises(TypeError, match="status, exit_code"):
        Verdict(*values, **named)  # type: ignore[arg-type]
