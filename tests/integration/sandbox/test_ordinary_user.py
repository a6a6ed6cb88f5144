"""The namespace provider for a user without any privilege: the core of the contract suite, run as `nobody`."""

import os
import pwd
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

_SUITES = ("test_background.py", "test_files.py", "test_lifecycle.py")
_RUN_SECONDS = 900
_READABLE = "import os, sys; open(os.path.realpath(sys.executable)).close()"


def interpreter(user: list[str]) -> str | None:
    """Return a Python of this version that the user may run; a private one may lie in somebody's home."""
    name = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    for found in (str(Path(sys.executable).resolve()), shutil.which(name, path="/usr/local/bin:/usr/bin")):
        if (
            found
            and subprocess.run([*user, found, "-c", _READABLE], capture_output=True, check=False).returncode == 0
        ):
            return found
    return None


@pytest.mark.slow
@pytest.mark.timeout(_RUN_SECONDS)
def test_an_ordinary_user_has_the_same_sandboxes(tmp_path_factory: pytest.TempPathFactory) -> None:
    if os.geteuid() != 0:
        pytest.skip("the whole suite runs as an ordinary user already")
    nobody = pwd.getpwnam("nobody")
    user = ["setpriv", f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups"]
    user += ["--inh-caps=-all", "--bounding-set=-all"]
    python = interpreter(user)
    if python is None:
        pytest.skip("no Python of this version may be run by nobody")
    home = Path("/tmp") / f"bulkhead-nobody-{os.getpid()}"
    home.mkdir(mode=0o700)
    os.chown(home, nobody.pw_uid, nobody.pw_gid)
    here = Path(__file__).parent
    command = [*user, python, "-B", "-m", "pytest", "-m", "not docker and not slow", f"--basetemp={home}/base"]
    environment = {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": str(home),
        "TMPDIR": str(home),
        "PYTHONPATH": sysconfig.get_path("purelib"),
    }
    try:
        done = subprocess.run(
            [*command, *(str(here / name) for name in _SUITES)],
            cwd=here.parents[2],
            env=environment,
            capture_output=True,
            text=True,
            timeout=_RUN_SECONDS,
            check=False,
        )
    finally:
        shutil.rmtree(home, ignore_errors=True)
    assert done.returncode == 0, done.stdout[:8000] + done.stdout[-2000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
