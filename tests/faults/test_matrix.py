"""Every part hurt in every way, at the moments of a turn that 40 seeds choose; see `scenario.py`."""

from collections.abc import AsyncGenerator
from typing import get_args

import pytest

from tests.faults import harm
from tests.faults.play import QUICK, ground, play
from tests.faults.scenario import CELLS, CI_SEEDS, MODELS, MOMENTS, PARTS, PROGRAMS, Fault, choose
from tests.support.bait import Bait
from tests.support.harnesses import there


@pytest.fixture(scope="module")
async def bait(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Bait]:
    async with ground(tmp_path_factory.mktemp("faults"), scaled=True) as made:
        yield made


@pytest.mark.slow
@pytest.mark.timeout(200)
@pytest.mark.parametrize("seed", CI_SEEDS)
async def test_nothing_is_lost_doubled_or_left_behind(bait: Bait, seed: int) -> None:
    scenario = choose(seed)
    if scenario.fault == "full" and not (bait.stack.data_dir / scenario.part).is_mount():
        pytest.skip(f"{scenario}: only root may mount a disk that can be filled")
    scenario = scenario.on(there()) or pytest.skip(f"{scenario}: it is not installed")
    try:
        await play(bait, scenario, QUICK)
    except AssertionError as error:
        pytest.fail(f"{error}\n{bait.stack.tail(lines=100)}", pytrace=False)


def test_a_seed_is_always_the_same_scenario() -> None:
    assert [choose(seed) for seed in range(300)] == [choose(seed) for seed in range(300)]


def test_the_seeds_of_ci_hurt_every_part_in_every_way_at_every_moment() -> None:
    chosen = [choose(seed) for seed in CI_SEEDS]
    assert {(each.part, each.fault) for each in chosen} == {(part, fault) for part, fault, _ in CELLS}
    assert {each.part for each in chosen} == {*PARTS, *PROGRAMS, "provider"}
    conversations = [conversation for each in chosen for conversation in each.conversations]
    assert {(each.harness, each.model) for each in conversations} == {
        (harness, model) for harness, models in MODELS.items() for model in models
    }
    assert {each.fault for each in chosen} == {*get_args(Fault)}
    assert {each.moment for each in chosen} == {*MOMENTS}
    assert {len(each.conversations) for each in chosen} == {1, 2, 3, 4}
    assert any(each.budget_tokens for each in chosen)
    assert any(conversation.denied for conversation in conversations)


def test_no_cell_of_the_matrix_is_left_out() -> None:
    assert (
        len(set(CELLS)) == len(CELLS) == (3 * len(PARTS) + len(harm.DISK_MB) + 2 * len(PROGRAMS)) * len(MOMENTS) + 4
    )
