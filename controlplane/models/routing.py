"""Which provider answers for a model's name."""

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from controlplane.settings import ModelProvider
from harness_adapters.contract import WireFormat


@dataclass(frozen=True)
class Route:
    """A model, who serves it, and what it is called there."""

    model: str
    provider: str
    formats: tuple[WireFormat, ...]
    upstream_model: str
    free: bool = False

    def is_same(self, other: "Route") -> bool:
        """Say whether both names mean one model of one provider."""
        return (self.provider, self.upstream_model) == (other.provider, other.upstream_model)


class Router:
    """Finds the provider whose pattern fits a name; the longest pattern wins, among equals the one named last.

    A pattern that begins with its own provider's name (``openai/*``) only says where to go: that prefix is taken
    off before the name is forwarded.
    """

    def __init__(self, providers: Mapping[str, ModelProvider]):
        newest_first = reversed(list(providers.items()))
        patterns = [(pattern, name) for name, provider in newest_first for pattern in provider.models]
        self._patterns = sorted(patterns, key=lambda entry: len(entry[0]), reverse=True)
        self._providers = providers

    def route(self, model: str) -> Route | None:
        """Return where ``model`` is served, or None."""
        for pattern, name in self._patterns:
            if fnmatchcase(model, pattern):
                prefix = f"{name}/"
                upstream = model.removeprefix(prefix) if pattern.startswith(prefix) else model
                provider = self._providers[name]
                return Route(model, name, provider.formats, upstream, provider.free)
        return None

    def speaking(self, wire_format: WireFormat) -> list[str]:
        """Return the patterns of models that are served in a format."""
        return sorted({p for p, name in self._patterns if wire_format in self._providers[name].formats})

    def unserved(self, model: str) -> str:
        """Return the sentence for a model that nobody serves: what is missing, and where to put it."""
        served = ", ".join(sorted({pattern for pattern, _ in self._patterns})) or "nothing"
        return (
            f"no provider serves the model {model!r} (served: {served}); set ANTHROPIC_API_KEY for claude-*,"
            " OPENAI_API_KEY for gpt-*, or add a [providers.NAME] table with format, base_url, api_key and models"
            " to bulkhead.toml (BULKHEAD_CONFIG_FILE), and restart the gateway"
        )
