"""The builtin harness: a loop over a provider's streaming API, without an SDK."""

from harness_adapters.builtin.loop import BuiltinHarness
from harness_adapters.model.patience import Patience

__all__ = ["BuiltinHarness", "Patience"]
