"""How a glob is tried on a value that may be the path of a file; pure."""

import posixpath

from workflows.rules.pattern import fits_glob

_WORKSPACE = "/workspace"


def certainly_fits(glob: str, value: str) -> bool:
    """Say whether the glob fits however the value is read: ``..`` leads out of folders, so the glob must name it."""
    climbs = ".." in value.split("/")
    return fits_glob(glob, value) and (not climbs or ".." in glob)


def possibly_fits(glob: str, value: str) -> bool:
    """Say whether the glob fits the value or another spelling of it as a path, from /workspace too."""
    spellings = {value}
    if value and "\0" not in value:
        spellings |= {_normal(value), _normal(posixpath.join(_WORKSPACE, value))}
    return any(fits_glob(glob, each) for each in spellings)


def _normal(path: str) -> str:
    normal = posixpath.normpath(path)
    return normal[1:] if normal.startswith("//") else normal
