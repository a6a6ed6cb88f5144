"""What process 1 uses of the module typing, without importing that: it would take a tenth of the start."""

__all__ = ("Any", "Protocol")

TYPE_CHECKING = False
"""Type checkers take it for true, under this name wherever it is defined."""

if TYPE_CHECKING:
    from typing import Any, Protocol
else:
    Any = Protocol = object
