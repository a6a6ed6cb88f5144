#!/usr/bin/env bash
# Build the image of Bulkhead and print its name. With a base that is given as the first argument (debian:12-slim, say)
# that is what it stands on; otherwise what `bulkhead sandbox image` makes, for which no registry is needed.
# Wheels are fetched by this machine's pip, as it is configured here; the build itself fetches none.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '%s\n' "$*" >&2; }

readonly python=.venv/bin/python
readonly context=build/image
version=$("$python" -c 'from importlib.metadata import version; print(version("bulkhead"))')
readonly image=${BULKHEAD_IMAGE:-bulkhead:$version}
base=${1:-}

if [ -z "$base" ]; then
  base=bulkhead-sandbox:latest
  docker image inspect "$base" > /dev/null 2>&1 || .venv/bin/bulkhead sandbox image >&2
fi

mkdir -p "$context/wheels"
exec 9> "$context.lock"
flock 9 # two at once would take each other's files away
"$python" -c 'from sandbox.image import PACKAGES; print("\n".join(PACKAGES))' > "$context/packages.txt"
wanted=$(docker run --rm --entrypoint sh "$base" -c "python3 -c 'import sys; print(\"%d.%d\" % sys.version_info[:2])'" 2> /dev/null) ||
  wanted=3.11 # Debian 12's, which comes with the packages
if ! cmp --silent requirements/image.txt "$context/requirements.txt"; then
  say "fetching packages for Python $wanted"
  rm -rf "$context/wheels" && mkdir "$context/wheels"
  "$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --python-version "$wanted" \
    --require-hashes --requirement requirements/image.txt --dest "$context/wheels"
  cp requirements/image.txt "$context/requirements.txt"
fi
rm -rf "$context/bulkhead"
VIRTUAL_ENV=$PWD/.venv .venv/bin/uv build --quiet --offline --no-build-isolation --wheel --out-dir "$context/bulkhead"
rm -f "$context/bulkhead/.gitignore"
find "$context" -exec touch --no-create --date=@0 {} + # so that what is the same is a layer that is there already

say "building $image on $base"
DOCKER_BUILDKIT=0 docker build --quiet --build-arg "BASE=$base" --tag "$image" --file Dockerfile "$context" >&2
echo "$image"
