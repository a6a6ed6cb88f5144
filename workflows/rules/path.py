"""Where in a tool's input a condition looks: JSON paths of RFC 9535, without filters; pure."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

MAX_PATH_CHARS = 200


class PathError(ValueError):
    """A path that leads nowhere, whatever the input is."""


def check_path(text: str) -> str:
    """Return ``text`` if it is a JSON path that rules may use; raises `PathError`."""
    if "?" in text:
        raise PathError("filters, and names with a '?', are not supported: state a condition of its own instead")
    if text.count("..") > 1:
        raise PathError("'..' may stand in it once")
    _compiled(text)
    return text


def found(text: str, value: Mapping[str, Any]) -> list[Any]:
    """Return what the path finds in a tool's input."""
    return list(_compiled(text).find(value).values())


@lru_cache(maxsize=1024)
def _compiled(text: str) -> Any:
    import jsonpath_rfc9535

    try:
        return jsonpath_rfc9535.compile(text)
    except jsonpath_rfc9535.JSONPathError as error:
        raise PathError("not a JSON path of RFC 9535, such as $.command or $.files[*].path") from error
