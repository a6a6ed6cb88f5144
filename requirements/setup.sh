#!/usr/bin/env bash
# Make .venv with every dependency at its pinned version and hash. Quick when nothing has changed.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '%s\n' "$*" >&2; }

find_python() {
  for candidate in "${PYTHON:-python3}" python3.14 python3.13 python3.12 python3.11; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      command -v "$candidate"
      return
    fi
  done
  say "Bulkhead needs Python 3.11 or later; $("${PYTHON:-python3}" --version 2>&1 | head -n 1) was found."
  say "Next: apt-get install python3 python3-venv (Debian 12, Ubuntu 24.04 or later), or name one: make setup PYTHON=/path/to/python3"
  return 1
}

make_venv() {
  rm -rf .venv
  if ! output=$("$1" -m venv .venv 2>&1); then
    rm -rf .venv
    say "$output"
    version=$("$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    say "Next: apt-get install python3-venv (or python${version}-venv), then try again."
    return 1
  fi
}

# Where Python is told to write no bytecode (PYTHONDONTWRITEBYTECODE, as in many images), each command would compile
# all that it imports again: that doubled the time of a `bulkhead` command.
compile_ours() {
  .venv/bin/python -m compileall -q controlplane harness_adapters sandbox workflows
}

python=$(find_python)
stamp=.venv/.installed
wanted=$({ "$python" --version; pwd; cat requirements/*.txt requirements/setup.sh pyproject.toml; } | sha256sum)
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
  compile_ours
  exit 0
fi

say "Setting up .venv"
rm -f "$stamp"
.venv/bin/python -m pip --version > /dev/null 2>&1 || make_venv "$python"
.venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/build.txt
export VIRTUAL_ENV=$PWD/.venv
if ! .venv/bin/uv pip sync --quiet --system-certs --require-hashes requirements/dev.txt requirements/build.txt; then
  say "uv could not install (it does not read pip.conf, for example); trying pip, which is slower"
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
fi
.venv/bin/python -m compileall -q -j 0 .venv/lib > /dev/null || true  # packages hold templates that are no Python
.venv/bin/uv pip install --quiet --offline --no-deps --no-build-isolation --editable .
compile_ours
printf '%s\n' "$wanted" > "$stamp"
