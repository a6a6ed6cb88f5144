"""`python -m tests.faults`: play one seed, or one random seed after the other for so many minutes."""

import argparse
import asyncio
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

from harness_adapters.installation import default_folder, installed_names
from tests.faults.play import QUICK, Patience, ground, play
from tests.faults.scenario import CELLS, Scenario, choose


async def one(seed: int, patience: Patience) -> None:
    """Play one seed on a control plane of its own."""
    with tempfile.TemporaryDirectory(prefix="bulkhead-faults-") as folder:
        async with ground(Path(folder), scaled=patience == QUICK) as bait:
            try:
                seconds = await play(bait, _chosen(seed), patience)
            except AssertionError:
                print(bait.stack.tail(lines=200), file=sys.stderr)
                raise
        print(f"{choose(seed)}: {seconds:.1f} s")


async def soak(minutes: float, patience: Patience) -> int:
    """Play random seeds until the time is over; return how many failed. Each that failed is printed."""
    ends, played, failed = time.monotonic() + minutes * 60, 0, 0
    while time.monotonic() < ends:
        with tempfile.TemporaryDirectory(prefix="bulkhead-faults-") as folder:
            async with ground(Path(folder), scaled=patience == QUICK) as bait:
                for _ in CELLS:
                    seed = random.randrange(1 << 31)
                    if choose(seed).on(installed_names(default_folder())) is None:
                        continue
                    played += 1
                    try:
                        print(f"{choose(seed)}: {await play(bait, _chosen(seed), patience):.1f} s", flush=True)
                    except AssertionError as error:
                        failed += 1
                        print(f"FAILED: {error}", flush=True)
                        break
                    if time.monotonic() > ends:
                        break
    print(f"{played} seeds played, {failed} failed")
    return failed


def _chosen(seed: int) -> Scenario:
    """Return a seed's scenario, with the builtin harness in place of those that are not installed."""
    scenario = choose(seed).on(installed_names(default_folder()))
    if scenario is None:
        sys.exit(f"{choose(seed)}: it is not installed; bulkhead harness install {choose(seed).part}")
    return scenario


def main() -> None:
    """Read the arguments and play."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--seed", type=int, help="play this one and end")
    what.add_argument("--minutes", type=float, help="play random seeds for so long")
    parser.add_argument("--real", action="store_true", help="with the time-outs of production, and stalls of 40 s")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what it started ends with it
    patience = Patience() if options.real else QUICK
    if options.seed is None:
        sys.exit(1 if asyncio.run(soak(options.minutes, patience)) else 0)
    asyncio.run(one(options.seed, patience))


if __name__ == "__main__":
    main()
