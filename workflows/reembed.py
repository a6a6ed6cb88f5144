"""Moving memory to another embedding model: vectors beside vectors, then the switch, then the old ones go."""

from datetime import timedelta
from typing import Protocol

from pydantic import BaseModel, ConfigDict
from temporalio import activity, workflow
from temporalio.common import RetryPolicy

REEMBED_WORKFLOW = "reembed"
_FILL, _SWITCH, _DROP = "fill_vectors", "switch_vectors", "drop_vectors"

_BATCH_SECONDS = 60
_SETTLING_SECONDS = 5
"""Searches that began with the old model's question end in that time; only then do its vectors go."""
_BATCHES_IN_A_RUN = 300
_RETRIES = RetryPolicy(initial_interval=timedelta(seconds=1), maximum_interval=timedelta(seconds=30))


class ReembedInput(BaseModel):
    """``model``: the one to move to. ``switched``: whether it is searched with already; crosses continue-as-new."""

    model_config = ConfigDict(frozen=True)

    model: str
    switched: bool = False


class Vectors(Protocol):
    """What the workflow has done; each step may be repeated, and what is left to do is in Postgres alone."""

    async def fill(self, model: str) -> int:
        """Give some versions their vector of a model, and return how many lacked one."""
        ...

    async def switch(self, model: str) -> bool:
        """Search with a model's vectors from now on, if none is lacking; say whether it is so."""
        ...

    async def drop(self, model: str) -> int:
        """Remove some vectors of other models, and return how many there were."""
        ...


class ReembedActivities:
    """The workflow's steps as activities of the memory worker."""

    def __init__(self, vectors: Vectors):
        self._vectors = vectors

    @activity.defn(name=_FILL)
    async def fill(self, model: str) -> int:
        """See `Vectors.fill`."""
        return await self._vectors.fill(model)

    @activity.defn(name=_SWITCH)
    async def switch(self, model: str) -> bool:
        """See `Vectors.switch`."""
        return await self._vectors.switch(model)

    @activity.defn(name=_DROP)
    async def drop(self, model: str) -> int:
        """See `Vectors.drop`."""
        return await self._vectors.drop(model)


@workflow.defn(name=REEMBED_WORKFLOW)
class ReembedWorkflow:
    """Durable, and resumed where it was: each step asks Postgres what is left."""

    @workflow.run
    async def run(self, wanted: ReembedInput) -> None:
        """Fill, switch, drop."""
        switched = wanted.switched
        for _ in range(_BATCHES_IN_A_RUN):
            if not switched:
                lacking = await self._step(_FILL, wanted.model, int)
                switched = lacking == 0 and bool(await self._step(_SWITCH, wanted.model, bool))
                if switched:
                    await workflow.sleep(_SETTLING_SECONDS)
            elif await self._step(_DROP, wanted.model, int) == 0:
                return
        workflow.continue_as_new(ReembedInput(model=wanted.model, switched=switched))

    @staticmethod
    async def _step(name: str, model: str, kind: type[int]) -> int:
        return await workflow.execute_activity(
            name,
            model,
            result_type=kind,
            start_to_close_timeout=timedelta(seconds=_BATCH_SECONDS),
            retry_policy=_RETRIES,
        )
