"""Every harness with its real program, beside a gateway and the scripted model on real sockets."""

import os
from collections.abc import AsyncGenerator, Mapping

import pytest

from controlplane.ids import new_id
from controlplane.models.listening import listening
from controlplane.models.scripted import create_scripted, scripted_providers
from harness_adapters.catalog import HarnessSettings
from harness_adapters.contract import Harness
from harness_adapters.installation import default_folder
from harness_adapters.model.patience import Patience
from tests.integration.harnesses.recorder import Recorder
from tests.integration.harnesses.talk import Talk
from tests.integration.models.conftest import SCRIPTED, Gateway, OpenGateway, open_gateway
from tests.support.harnesses import MODELS, WITH_THE_EXAMPLE, available, with_the_example

__all__ = ["open_gateway"]


@pytest.fixture
def recorder() -> Recorder:
    """What the model is asked."""
    return Recorder(create_scripted())


@pytest.fixture
async def gateway(open_gateway: OpenGateway, recorder: Recorder) -> AsyncGenerator[Gateway]:
    """A gateway to a scripted model that keeps what it is asked."""
    async with listening(recorder) as url, open_gateway(scripted_providers(url), models=SCRIPTED) as opened:
        yield opened


@pytest.fixture(scope="session")
def harness_settings(tmp_path_factory: pytest.TempPathFactory) -> HarnessSettings:
    """Where the suite's harness processes are."""
    folder = tmp_path_factory.mktemp("harnesses")
    return HarnessSettings(
        programs=default_folder(),
        state_dir=folder / "run",
        cache_dir=folder / "cache",
        installation=f"test{os.getpid()}",
        processes=4,
        patience=Patience(first_wait_seconds=0.01, stream_idle_seconds=2),
    )


@pytest.fixture(scope="session")
async def all_harnesses(harness_settings: HarnessSettings) -> AsyncGenerator[Mapping[str, Harness]]:
    """Every harness that is installed, and the example; their processes live for the whole test session."""
    found = with_the_example(lambda: new_id("sevt"), harness_settings)
    yield found
    for harness in found.values():
        await harness.close()


@pytest.fixture(params=WITH_THE_EXAMPLE)
def name(request: pytest.FixtureRequest) -> str:
    """A harness's name; its tests are skipped where it is not installed, which CI does not allow."""
    return available(request.param)


@pytest.fixture
def harness(all_harnesses: Mapping[str, Harness], name: str) -> Harness:
    """A harness."""
    return all_harnesses[name]


@pytest.fixture
def talk(gateway: Gateway, name: str) -> Talk:
    """A session of an agent that runs with the harness."""
    return Talk(gateway, MODELS[name])
