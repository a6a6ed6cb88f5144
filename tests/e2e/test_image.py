"""The image as `make image` makes it: for every part, and for sandboxes."""

import subprocess
from importlib.metadata import version

import pytest

pytestmark = pytest.mark.docker

AS_IN_A_CLUSTER = ("--rm", "--read-only", "--network=none", "--cap-drop=ALL")
IMAGE = f"bulkhead:{version('bulkhead')}"


@pytest.fixture(scope="module", autouse=True)
def image() -> None:
    """Skip where nobody has made it."""
    try:
        found = subprocess.run(["docker", "image", "inspect", IMAGE], capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no `docker` here")
    if found.returncode != 0:
        pytest.skip(f"there is no {IMAGE}: `make image` makes it")


def run(*command: str, user: str = "10001:10001") -> subprocess.CompletedProcess[str]:
    """Run a command in the image as a cluster does: its root read-only, no network, no capability."""
    return subprocess.run(
        ["docker", "run", *AS_IN_A_CLUSTER, f"--user={user}", IMAGE, *command],
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip


def test_it_is_nobody_of_importance_by_itself() -> None:
    shown = subprocess.run(
        ["docker", "image", "inspect", "--format={{.Config.User}}", IMAGE], capture_output=True, text=True, check=True
    )
    assert shown.stdout.strip() == "10001:10001"


@pytest.mark.parametrize(
    "part", ["api", "gateway", "brain", "sandboxes", "egress", "memory-worker", "slack", "migrate"]
)
def test_every_part_starts_on_a_root_that_cannot_be_written(part: str) -> None:
    done = run("bulkhead", part)
    assert "BULKHEAD_DATABASE_URL" in done.stderr, done.stdout + done.stderr


def test_what_the_chart_embeds_is_in_it() -> None:
    assert "(PostgreSQL) 16" in run("/opt/bulkhead/postgres/postgres", "--version").stdout
    assert "temporal version" in run("/opt/bulkhead/bin/temporal", "--version").stdout


@pytest.mark.parametrize("program", ["bash", "curl", "git", "jq", "python3", "rg"])
def test_a_sandbox_of_it_has_what_agents_reach_for(program: str) -> None:
    found = run("bash", "-c", f"command -v {program}", user="1234567:1234567").stdout.strip()
    assert found in {f"/usr/bin/{program}", f"/bin/{program}"}, "of the system, not of Bulkhead's own environment"


def test_what_every_sandbox_begins_with_is_at_its_place() -> None:
    program = "import sandbox.supervisor.main; print('there')"
    done = run(
        "/.bulkhead/lib/loader",
        "--library-path",
        "/.bulkhead/lib",
        "/.bulkhead/bin/python3",
        "-I",
        "-S",
        "-c",
        program,
    )
    assert done.stdout == "there\n", done.stderr
