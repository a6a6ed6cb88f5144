"""A request as a client sent it, and how large it is likely to be."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from controlplane.models.upstream import UpstreamRequest
from harness_adapters.contract import WireFormat

BYTES_PER_TOKEN = 4
"""Of a request's body; a reservation need not be exact, as it is replaced by what the provider counted."""

MEDIA_TOKENS = 1500
"""About what a provider counts for an image, however many bytes it has."""

Json = dict[str, Any]


@dataclass(frozen=True)
class Asked:
    """A request whose body is JSON with a model's name in it; ``fields`` is what it says."""

    wire_format: WireFormat
    body: bytes
    fields: Json
    headers: Mapping[str, str]
    query: str

    @property
    def is_streamed(self) -> bool:
        """Whether the answer is asked for as a stream."""
        return bool(self.fields.get("stream"))

    @property
    def hides_usage(self) -> bool:
        """Whether the answer will not say what it used, since nobody asked for it."""
        options = self.fields.get("stream_options")
        told = isinstance(options, dict) and bool(cast(Json, options).get("include_usage"))
        return self.wire_format == "openai" and self.is_streamed and not told

    def of_model(self, upstream_model: str) -> UpstreamRequest:
        """Return what is passed on to the provider of a model, unchanged if it is the one that was asked for."""
        named = self.fields["model"] == upstream_model
        body = self.body if named else json.dumps({**self.fields, "model": upstream_model}).encode()
        return UpstreamRequest(body, self.headers, self.query)

    def input_tokens(self) -> int:
        """Estimate how many tokens the request has: images by their number, the rest by its length."""
        media = list(_media(self.fields)) if b"base64" in self.body else []
        text = len(self.body) - sum(len(each) for each in media)
        return max(0, text) // BYTES_PER_TOKEN + MEDIA_TOKENS * len(media)


def _media(fields: Json) -> Iterator[str]:
    waiting: list[object] = [fields]
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict):
            found = cast(Json, each)
            data = found.get("data") if found.get("type") == "base64" else None
            if isinstance(data, str):
                yield data
            else:
                waiting += found.values()
        elif isinstance(each, list):
            waiting += cast("list[object]", each)
        elif isinstance(each, str) and each.startswith("data:") and ";base64," in each[:200]:
            yield each
