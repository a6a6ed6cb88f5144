"""Structured logs: one JSON object a line, or the same as a readable line on a terminal."""

import json
import logging
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any, Literal, TextIO

import structlog

LogFormat = Literal["auto", "json", "text"]

_QUIET = ("httpx", "httpcore", "urllib3", "docker", "uvicorn")
"""Libraries whose lines below a warning say nothing of ours, or name URLs, which may carry a token."""

_LEVEL_COLOURS = {"debug": "2", "info": "32", "warning": "33", "error": "31", "critical": "31;1"}
_DIM = "2"


def configure(part: str, log_format: LogFormat = "auto") -> None:
    """Send the logs of this process, the libraries' too, to stderr; ``auto`` is text on a terminal, else JSON."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        structlog.stdlib.ExtraAdder(),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
        _named(part),
    ]
    structlog.configure(
        processors=[*shared[:3], *shared[4:], structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _renderer(log_format)],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.INFO)
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)


def wants_text(log_format: LogFormat, stream: TextIO) -> bool:
    """Say whether logs on ``stream`` are to be readable lines rather than JSON."""
    return log_format == "text" or (log_format == "auto" and stream.isatty())


def readable(record: Mapping[str, Any], *, colours: bool) -> str:
    """Return a record as one line for people: time, part, event, then everything else as ``name=value``."""
    rest = {**record}
    time = str(rest.pop("time", ""))[11:19]
    part, level = str(rest.pop("part", "")), str(rest.pop("level", "info"))
    event, trace = str(rest.pop("event", "")), rest.pop("exception", None)
    fields = " ".join(
        f"{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in rest.items()
    )
    marker = "" if level in ("info", "debug") else f"{level.upper()} "
    line = " ".join(
        (
            _coloured(time, _DIM, colours),
            _coloured(f"{part:<10}", _LEVEL_COLOURS.get(level, ""), colours),
            marker + event,
            _coloured(fields, _DIM, colours),
        )
    ).rstrip()
    return f"{line}\n{trace}" if trace else line


def readable_line(line: str, *, part: str, colours: bool) -> str:
    """Return a line that a part wrote, readable: its JSON record, or whatever else it printed."""
    return readable(_record(line, part), colours=colours)


def json_line(line: str, *, part: str) -> str:
    """Return a line that a part wrote as one JSON record."""
    return json.dumps(_record(line, part), ensure_ascii=False)


def _record(line: str, part: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError:
        record = None
    return record if isinstance(record, dict) else {"part": part, "level": "info", "event": line}


def _coloured(text: str, code: str, colours: bool) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if colours and text else text


def _named(part: str) -> structlog.typing.Processor:
    def add_part(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event["part"] = part
        return event

    return add_part


def _renderer(log_format: LogFormat) -> structlog.typing.Processor:
    if not wants_text(log_format, sys.stderr):
        return structlog.processors.JSONRenderer(default=str)
    colours = sys.stderr.isatty()

    def render(_logger: Any, _method: str, event: Mapping[str, Any]) -> str:
        return readable(event, colours=colours)

    return render
