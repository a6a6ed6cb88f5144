"""What people do at a front door, as the ledger is given it."""

import itertools

from controlplane.frontdoors.contract import Crossed, Inbound, Pressed, Said

_numbers = itertools.count(1)


def inbound(
    what: Said | Pressed | Crossed,
    *,
    place: str = "C001",
    thread: str = "1.0",
    message: str = "1.0",
    person: str = "U01ALICE",
) -> Inbound:
    """Return something that a person did, told for the first time."""
    return Inbound(
        delivery=f"Ev{next(_numbers)}", place=place, thread=thread, message=message, person=person, what=what
    )
