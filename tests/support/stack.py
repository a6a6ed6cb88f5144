"""The whole control plane as a real process: what a user starts with `bulkhead up`."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import httpx

_READY_SECONDS = 90  # two busy cores and a first start with initdb
_STOP_SECONDS = 60
_LOOK_SECONDS = 0.05


class Stack:
    """One `bulkhead up` on a data directory of its own; its output goes to a file.

    ``vault_ids``: what sessions of tests get unless they say otherwise. ``errors``: the error pages that were met.
    """

    def __init__(
        self, data_dir: Path, *, environment: Mapping[str, str] | None = None, options: tuple[str, ...] = ()
    ):
        self.data_dir = data_dir
        self.output = data_dir.with_name(data_dir.name + ".log")
        self._options = options
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("BULKHEAD_", "OPENAI_"))}
        kept.pop("ANTHROPIC_API_KEY", None)
        self._environment = kept | dict(environment or {})
        self._process: subprocess.Popen[bytes] | None = None
        self.vault_ids: list[str] = []
        self.errors: list[bytes] = []

    @property
    def url(self) -> str:
        """Where the API answers."""
        return (self.data_dir / "run" / "url").read_text()

    @property
    def api_key(self) -> str:
        """The first API key."""
        return (self.data_dir / "api-key").read_text().strip()

    @property
    def pid(self) -> int:
        """The process id of `bulkhead up` itself."""
        assert self._process is not None
        return self._process.pid

    @property
    def client(self) -> httpx.Client:
        """An HTTP client with the key; the caller closes it."""
        return httpx.Client(
            base_url=self.url,
            headers={"x-api-key": self.api_key},
            timeout=30,
            event_hooks={"response": [self.keep_error]},
        )

    def keep_error(self, answer: httpx.Response) -> None:
        """Keep what an error page says, for whoever looks for secrets."""
        if answer.is_error:
            self.errors.append(repr(answer.headers.raw).encode() + answer.read())

    def parts(self) -> dict[str, int]:
        """The process id of every part."""
        return {name: part["pid"] for name, part in self._record().items()}

    def restarts(self) -> dict[str, int]:
        """How often every part was started again."""
        return {name: part["restarts"] for name, part in self._record().items()}

    def start(self) -> None:
        """Start without waiting."""
        (self.data_dir / "run" / "url").unlink(missing_ok=True)
        command = [sys.executable, "-m", "controlplane.cli", "up", "--data-dir", str(self.data_dir), "--port", "0"]
        with self.output.open("ab") as output:
            self._process = subprocess.Popen(
                [*command, *self._options],
                stdout=output,
                stderr=output,
                env=self._environment,
                start_new_session=True,
            )

    def wait_ready(self) -> None:
        """Wait until `up` says that everything is ready."""
        assert self._process is not None
        process = self._process
        self._until(lambda: (self.data_dir / "run" / "url").exists() or process.poll() is not None)
        assert process.poll() is None, f"`bulkhead up` ended with {process.returncode}:\n{self.tail()}"

    async def ready_again(self) -> None:
        """Wait until every part answers, after some of them were killed."""
        async with httpx.AsyncClient(base_url=self.url, timeout=10) as client, asyncio.timeout(_READY_SECONDS):
            while True:
                if await _is_ready(client):
                    return
                await asyncio.sleep(_LOOK_SECONDS)

    def stop(self, number: int = signal.SIGINT) -> int:
        """Send a signal and return the exit status."""
        assert self._process is not None
        self._process.send_signal(number)
        try:
            return self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise AssertionError(f"`bulkhead up` did not end:\n{self.tail()}") from None

    def end(self) -> None:
        """Stop if it still runs."""
        if self._process is not None and self._process.poll() is None:
            self.stop()

    def tail(self, *, lines: int = 60) -> str:
        """Return the end of the output."""
        return "\n".join(self.output.read_text(errors="replace").splitlines()[-lines:])

    def _record(self) -> dict[str, dict[str, int]]:
        return json.loads((self.data_dir / "run" / "parts.json").read_text())

    def _until(self, holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _READY_SECONDS
        while not holds():
            if time.monotonic() > deadline:
                self.end()
                raise AssertionError(f"`bulkhead up` was never ready:\n{self.tail()}")
            time.sleep(_LOOK_SECONDS)


async def _is_ready(client: httpx.AsyncClient) -> bool:
    try:
        return (await client.get("/readyz")).status_code == 200
    except httpx.HTTPError:
        return False
