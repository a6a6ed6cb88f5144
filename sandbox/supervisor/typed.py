"""What process 1 uses of the module typing, without importing that: it would take a tenth of the start."""

from operator import itemgetter

__all__ = ("Any", "NamedTuple", "Protocol")

TYPE_CHECKING = False
"""Type checkers take it for true, under this name wherever it is defined."""

if TYPE_CHECKING:
    from typing import Any, NamedTuple, Protocol
else:
    Any = Protocol = object

    class NamedTuple(tuple):
        """A tuple whose fields are the annotations of the class, with the class's values as defaults."""

        __slots__ = ()

        def __init_subclass__(cls):
            cls._fields = tuple(cls.__annotations__)
            cls._defaults = {name: vars(cls)[name] for name in cls._fields if name in vars(cls)}
            for index, name in enumerate(cls._fields):
                setattr(cls, name, property(itemgetter(index)))

        def __new__(cls, *values, **named):
            given = cls._defaults | dict(zip(cls._fields, values, strict=False)) | named
            if len(values) > len(cls._fields) or given.keys() != set(cls._fields):
                raise TypeError(f"{cls.__name__} takes {', '.join(cls._fields)}")
            return super().__new__(cls, (given[name] for name in cls._fields))

        def _asdict(self):
            return dict(zip(self._fields, self, strict=True))
