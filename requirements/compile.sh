#!/usr/bin/env bash
# Pin every dependency with its hashes. Run after editing pyproject.toml; add --upgrade to move versions.
set -euo pipefail
cd "$(dirname "$0")/.."
compile() {
  uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
    --no-emit-index-url --no-emit-find-links "$@"
}
compile pyproject.toml -o requirements/base.txt
compile pyproject.toml --extra kubernetes --extra slack --group dev -c requirements/base.txt -o requirements/dev.txt
# What the image has: every part, with the Slack front door and sandboxes as pods.
compile pyproject.toml --extra kubernetes --extra slack -c requirements/dev.txt -o requirements/image.txt
compile --group build -o requirements/build.txt
# What `make bench` compares the egress proxy with, in an environment of its own; the last that runs on Python 3.11.
compile - -o requirements/mitmproxy.txt <<< "mitmproxy==11.0.2"
