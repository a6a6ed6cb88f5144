"""Vaults from the command line, and where the master key is on a running machine."""

import json
import os
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from controlplane.vault.keyring import new_master_key
from tests.support.stack import Stack

pytestmark = pytest.mark.slow

SECRET = "the-canary-of-the-command-line"
MASTER_KEY = new_master_key()


@pytest.fixture(scope="module")
def own_stack(tmp_path_factory: pytest.TempPathFactory) -> Generator[Stack]:
    """A control plane that got its master key in the environment."""
    running = Stack(tmp_path_factory.mktemp("vaults") / "data", environment={"BULKHEAD_MASTER_KEY": MASTER_KEY})
    running.start()
    running.wait_ready()
    yield running
    running.end()


def bulkhead(stack: Stack, *arguments: str, stdin: str = "") -> Any:
    """Run a command that must succeed, and return its JSON."""
    done = subprocess.run(
        [sys.executable, "-m", "controlplane.cli", *arguments, "--json"],
        env={**os.environ, "BULKHEAD_DATA_DIR": str(stack.data_dir)},
        input=stdin,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert SECRET not in done.stdout + done.stderr
    return json.loads(done.stdout)


def test_a_secret_goes_in_by_stdin_and_never_comes_out(own_stack: Stack):
    vault = bulkhead(own_stack, "vaults", "create", "Alice")["id"]
    create = ["vaults", "credentials", "create", vault, "GITHUB_TOKEN", "--host", "api.github.com", "--method", "get"]
    made = bulkhead(own_stack, *create, stdin=SECRET + "\n")
    assert (made["auth"]["networking"]["allowed_hosts"], made["auth"]["methods"]) == (["api.github.com"], ["GET"])
    rotated = bulkhead(own_stack, "vaults", "credentials", "rotate", vault, made["id"], stdin=SECRET + "-2\n")
    assert rotated["updated_at"] > made["updated_at"]
    assert bulkhead(own_stack, "vaults", "credentials", "list", vault)[0]["id"] == made["id"]
    assert bulkhead(own_stack, "vaults", "rewrap")["rewrapped"] == 0
    assert bulkhead(own_stack, "vaults", "credentials", "archive", vault, made["id"])["archived_at"]
    assert bulkhead(own_stack, "vaults", "delete", vault)["type"] == "vault_deleted"
    assert SECRET not in own_stack.output.read_text()


def test_a_session_with_a_vault_can_be_cut_off_and_its_record_checked(own_stack: Stack):
    vault = bulkhead(own_stack, "vaults", "create", "Alice")["id"]
    bulkhead(own_stack, "agents", "create", "--name", "a", "--model", "scripted/x")
    bulkhead(own_stack, "environments", "create", "--name", "e")
    session = bulkhead(own_stack, "sessions", "create", "--agent", "a", "--environment", "e", "--vault", vault)
    assert session["vault_ids"] == [vault]
    egress = ("sessions", "egress")
    assert bulkhead(own_stack, *egress, "revoke", session["id"])["revoked_at"]
    assert bulkhead(own_stack, *egress, "restore", session["id"])["revoked_at"] is None
    assert bulkhead(own_stack, *egress, "list", session["id"], "--verdict", "denied", "--verdict", "cut") == []
    assert bulkhead(own_stack, *egress, "verify", session["id"])["decisions"] == 0


def test_an_empty_stdin_is_no_secret(own_stack: Stack):
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "controlplane.cli",
            "vaults",
            "credentials",
            "create",
            "v",
            "T",
            "--host",
            "a.example",
        ],
        env={**os.environ, "BULKHEAD_DATA_DIR": str(own_stack.data_dir)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert (done.returncode, "stdin holds no secret" in done.stderr) == (1, True)


def test_only_those_who_seal_and_open_secrets_get_the_master_key(own_stack: Stack):
    holders = {
        name
        for name, pid in own_stack.parts().items()
        if MASTER_KEY.encode() in Path(f"/proc/{pid}/environ").read_bytes()
    }
    assert "api" in holders
    assert holders <= {"api", "egress", "memory"}
    assert not (own_stack.data_dir / "master-key").exists()


def test_without_one_a_master_key_is_made_for_the_owner_alone(stack: Stack):
    assert (stack.data_dir / "master-key").stat().st_mode & 0o777 == 0o600
    assert bulkhead(stack, "vaults", "create", "Alice")["id"].startswith("vlt_")
