"""What a command loads before it does anything: a person waits for it, each time."""

import subprocess
import sys


def test_a_command_does_not_load_what_only_servers_need():
    code = "import sys, controlplane.cli; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    ).stdout
    assert not {"pydantic", "psycopg", "temporalio", "uvicorn"} & set(loaded.split())
