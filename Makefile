.PHONY: setup demo test test-slow test-kubernetes lint bench soak image clean

minutes ?= 60
base ?=

# Everything that a command needs is installed by the command itself, into .venv.
setup:
	@./requirements/setup.sh

demo: setup
	@.venv/bin/bulkhead demo

test: setup
	.venv/bin/pytest --numprocesses 2 --dist loadfile -m "not slow and not docker and not kubernetes"

test-slow: setup
	.venv/bin/pytest --numprocesses 2 --dist loadfile -m "(slow or docker) and not kubernetes and not thorough"

# On the cluster that KUBECONFIG names, with images from `tests/support/cluster.py`; skipped with a reason without one.
# In the order of their folders: attacks and releases first, then the contract that other providers keep as well.
test-kubernetes: setup
	.venv/bin/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder -m kubernetes

lint: setup
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/pyright
	.venv/bin/lint-imports

bench: setup
	.venv/bin/python -m tests.bench

# Random seeds of the fault matrix with the time-outs of production, sandboxes and bodies in their largest numbers, and
# many sessions at once: `make soak minutes=600`.
soak: setup
	.venv/bin/python -m tests.faults --minutes $(minutes) --real
	.venv/bin/pytest --numprocesses 2 --dist loadfile -m thorough
	.venv/bin/pytest --in-full tests/integration/sandbox/test_churn.py tests/attacks/sandbox/test_neighbours.py \
	  tests/attacks/egress/test_limits.py tests/e2e/slack/test_many.py
	.venv/bin/python -m tests.soak

# The image of every part, on what `bulkhead sandbox image` makes or on another: `make image base=debian:12-slim`.
image: setup
	@./requirements/image.sh $(base)

clean:
	rm -rf build .venv .venv-mitmproxy .bulkhead .ruff_cache .import_linter_cache .hypothesis
