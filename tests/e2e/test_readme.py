"""The README's tour, pasted line by line into a shell."""

import os
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

CHECKOUT = Path(__file__).parents[2]
TOUR = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks() -> list[str]:
    readme = (CHECKOUT / "README.md").read_text()
    return TOUR.findall(readme[readme.index("## A tour") :])


def test_every_command_of_the_tour_works(tmp_path: Path):
    (tmp_path / "examples").symlink_to(CHECKOUT / "examples")
    binaries = Path(sys.executable).parent
    script = "set -eu\n" + "\n".join(f"echo '== block {n}'\n{block}" for n, block in enumerate(blocks()))
    environment = {"HOME": str(tmp_path), "PATH": f"{binaries}:{os.environ['PATH']}", "BULKHEAD_PORT": "0"}
    try:
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stderr == ""
        shown = done.stdout.split("== block ")
        assert "198.51.100.23" in shown[2], "the agent answers"
        assert "tour" in shown[3], "the SDK lists the session"
        assert "event: agent." in shown[4], "curl shows the stream"
        assert "198.51.100.23" in shown[5], "and again after the kill"
    finally:
        stop(tmp_path)


def stop(folder: Path) -> None:
    """End what the tour left running; its own last line asks `up` to stop, which may be on its way."""
    with suppress(FileNotFoundError, psutil.NoSuchProcess):
        up = psutil.Process(int((folder / ".bulkhead" / "run" / "pid").read_text()))
        up.terminate()
        psutil.wait_procs([up], timeout=30)
