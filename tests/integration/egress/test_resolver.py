"""The machine's resolver, with a name server of ours on a machine without any other network."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


def test_names_are_looked_up_without_search_domains(tmp_path: Path) -> None:
    unshare = ["unshare", "--net", "--mount"]
    if subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs the right to make network and mount namespaces (root)")
    settings = tmp_path / "resolv.conf"
    settings.write_text("nameserver 127.0.0.1\nsearch test\noptions ndots:5 timeout:1 attempts:1\n")
    script = (
        'mount --bind "$1" /etc/resolv.conf && ip link set lo up && exec "$2" -m tests.integration.egress.name_server'
    )
    command = [*unshare, "sh", "-c", script, "sh", str(settings), sys.executable]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout) == {"found": ["10.9.8.7"], "missing": "not found", "asked": ["api", "api.test"]}
