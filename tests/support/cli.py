"""The command line as a shell runs it."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support.stack import Stack


class Cli:
    """Runs `bulkhead` the way a shell does."""

    def __init__(self, stack: Stack, folder: Path):
        self.folder = folder
        kept = {name: value for name, value in os.environ.items() if not name.startswith("BULKHEAD_")}
        self.environment = kept | {"BULKHEAD_DATA_DIR": str(stack.data_dir)}

    def run(self, *arguments: str, stdin: str = "", environment: Mapping[str, str] | None = None):
        """Run a command and return how it ended."""
        return subprocess.run(
            [sys.executable, "-m", "controlplane.cli", *arguments],
            cwd=self.folder,
            env=self.environment | dict(environment or {}),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )

    def text(self, *arguments: str, stdin: str = "") -> str:
        """Run a command that succeeds and return what it prints."""
        done = self.run(*arguments, stdin=stdin)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stderr == ""
        assert "\x1b" not in done.stdout, "colours are for terminals"
        return done.stdout

    def json(self, *arguments: str) -> Any:
        """Run a command that succeeds and return what it prints as JSON."""
        return json.loads(self.text(*arguments, "--json"))

    def refused(self, *arguments: str, environment: Mapping[str, str] | None = None) -> str:
        """Run a command that fails and return what it says."""
        done = self.run(*arguments, environment=environment)
        assert done.returncode == 1, done.stdout + done.stderr
        assert done.stdout == ""
        assert "Traceback" not in done.stderr
        return " ".join(done.stderr.split())
