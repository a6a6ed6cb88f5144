"""The server that a command talks to: where it is, the key for it, and its answers."""

import inspect
import os
import time
import uuid
from collections.abc import Callable, Iterator
from functools import cached_property, wraps
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer

from controlplane.cli.failure import Failure
from controlplane.cli.output import Output

DEFAULT_URL = "http://127.0.0.1:8400"
_TIMEOUT_SECONDS = 60.0
_PAGE_SIZE = 100
_UNAVAILABLE = 503
_RETRY_PAUSES_SECONDS = (0.2, 1.0)  # a part that died is there again in about that time

Json = dict[str, Any]

UrlOption = Annotated[str | None, typer.Option("--url", envvar="BULKHEAD_URL", help="Where the server answers.")]
DataDirOption = Annotated[
    Path,
    typer.Option(
        "--data-dir", envvar="BULKHEAD_DATA_DIR", help="Data directory of `bulkhead up`: URL and key are there."
    ),
]


def checked_id(noun: str, reference: str) -> str:
    """Return an id given on the command line; raises `Failure` for an empty one, as of an unset variable."""
    if not reference.strip():
        raise Failure(f"the {noun} id is empty", code="bad_usage", next_step=f"`bulkhead {noun}s list` shows the ids")
    return reference


def _session_id(given: str) -> str:
    return checked_id("session", given)


JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
SessionId = Annotated[str, typer.Argument(callback=_session_id)]


class Server:
    """A connection to the REST API, and the command's way of showing what came of it."""

    def __init__(self, url: str | None, data_dir: Path, *, as_json: bool):
        self.data_dir = data_dir
        self.output = Output(as_json=as_json)
        self.url = (url or _recorded(data_dir / "run" / "url") or DEFAULT_URL).rstrip("/")

    @property
    def as_json(self) -> bool:
        """Whether the command prints JSON."""
        return self.output.as_json

    @cached_property
    def client(self) -> httpx.Client:
        """The HTTP client, with the key."""
        return httpx.Client(base_url=self.url, headers={"x-api-key": self._key()}, timeout=_TIMEOUT_SECONDS)

    def get(self, path: str, /, **parameters: Any) -> Json:
        """Return what is at ``path``."""
        return self.request(
            "GET", path, params={name: value for name, value in parameters.items() if value is not None}
        )

    def post(self, path: str, body: Json | None = None) -> Json:
        """Send ``body`` once: a repeat after a lost answer carries the same idempotency key."""
        return self.request("POST", path, json=body or {}, headers={"Idempotency-Key": str(uuid.uuid4())})

    def delete(self, path: str) -> Json:
        """Remove what is at ``path``."""
        return self.request("DELETE", path)

    def request(self, method: str, path: str, **options: Any) -> Json:
        """Return the JSON of the answer; raises `Failure` for everything but a success."""
        response = self._respond(method, path, **options)
        check(response)
        return response.json()

    def listing(self, path: str, /, *, limit: int, **parameters: Any) -> Iterator[Json]:
        """Yield up to ``limit`` objects of a listing, page by page."""
        page: str | None = None
        left = limit
        while left > 0:
            answer = self.get(path, limit=min(left, _PAGE_SIZE), page=page, **parameters)
            yield from answer["data"][:left]
            left -= len(answer["data"])
            page = answer.get("next_page")
            if page is None:
                return

    def _respond(self, method: str, path: str, **options: Any) -> httpx.Response:
        for pause in _RETRY_PAUSES_SECONDS:
            try:
                response = self.client.request(method, path, **options)
                if response.status_code != _UNAVAILABLE:
                    return response
            except httpx.TransportError:
                pass
            time.sleep(pause)
        try:
            return self.client.request(method, path, **options)
        except httpx.TransportError as error:
            raise self.unreachable(error) from error

    def unreachable(self, error: Exception) -> Failure:
        """Return the failure for a server that does not answer."""
        return Failure(
            f"no answer from {self.url}: {error}",
            code="server_unreachable",
            next_step="start it with `bulkhead up`, or name it with --url or BULKHEAD_URL",
        )

    def _key(self) -> str:
        key = os.environ.get("BULKHEAD_API_KEY") or _recorded(self.data_dir / "api-key")
        if key is None:
            raise Failure(
                f"no API key: BULKHEAD_API_KEY is not set and there is no {self.data_dir / 'api-key'}",
                code="missing_api_key",
                next_step="set BULKHEAD_API_KEY, or name the data directory of `bulkhead up` with --data-dir",
            )
        return key


def check(response: httpx.Response) -> None:
    """Raise `Failure` with what the server said, unless it said yes."""
    if response.is_success:
        return
    try:
        error = response.json()["error"]
        message, code = error["message"], error["code"]
    except (ValueError, KeyError, TypeError):
        raise Failure(
            f"{response.request.url} answered {response.status_code} {response.reason_phrase}",
            code="unexpected_answer",
            next_step="check that --url names a Bulkhead server",
        ) from None
    raise Failure(message, code=code, field=error.get("field"), next_step=error.get("next_step"))


def connected(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command, whose first parameter is a `Server`, the options that say which one."""

    @wraps(command)
    def run(*args: Any, url: str | None, data_dir: Path, as_json: bool, **kwargs: Any) -> None:
        command(Server(url, data_dir, as_json=as_json), *args, **kwargs)

    options = {
        "url": (UrlOption, None),
        "data_dir": (DataDirOption, Path(".bulkhead")),
        "as_json": (JsonOption, False),
    }
    signature = inspect.signature(command, eval_str=True)
    own = list(signature.parameters.values())[1:]
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, (annotation, default) in options.items()
    ]
    parameters = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own] + added
    run.__signature__ = signature.replace(parameters=parameters)  # pyright: ignore[reportAttributeAccessIssue] - read by inspect
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    del run.__wrapped__  # pyright: ignore[reportAttributeAccessIssue] - set by wraps; inspect would follow it
    return run


def _recorded(path: Path) -> str | None:
    try:
        return path.read_text().strip() or None
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Failure(f"{path} cannot be read: {error.strerror}", code="unreadable_file") from error
