"""What a command loads before it does anything: a person waits for it, each time."""

import subprocess
import sys

import pytest


def loaded_by(code: str) -> set[str]:
    """Return the modules that another Python has when it has run the code, which prints them."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    return set(done.stdout.split())


def test_a_command_does_not_load_what_only_servers_need():
    code = "import sys, controlplane.cli; print(*sys.modules)"
    assert not {"pydantic", "psycopg", "temporalio", "uvicorn"} & loaded_by(code)


@pytest.mark.parametrize("part", ["models.gateway", "egress", "store.egress", "frontdoors.slack.process"])
def test_a_part_that_does_not_ask_temporal_does_not_load_it(part: str):
    code = f"import sys, controlplane.main, controlplane.{part}; print(*sys.modules)"
    assert "temporalio" not in loaded_by(code)
