"""What all conversations of a front door work with."""

import asyncio
from typing import Any

from controlplane.frontdoors.answers import Answers
from controlplane.frontdoors.contract import Service
from controlplane.frontdoors.courier import Courier
from controlplane.frontdoors.gate import Gate
from controlplane.frontdoors.leaving import Leaving
from controlplane.frontdoors.plane import Plane
from controlplane.frontdoors.receipts import Receipts
from controlplane.store.frontdoors import FrontDoorRecord
from controlplane.store.pool import Database

FILES_AT_ONCE = 2
"""That are taken over from people by one process, which holds each in memory: up to 200 MB."""


class Parts:
    """What every conversation of a front door works with; ``key`` seals buttons, ``carrying``: `FILES_AT_ONCE`."""

    def __init__(
        self,
        *,
        database: Database,
        service: Service,
        door: FrontDoorRecord,
        plane: Plane,
        key: bytes,
        courier: Courier,
        leaving: Leaving,
        receipts: Receipts,
    ):
        self.database = database
        self.service = service
        self.door = door
        self.plane = plane
        self.key = key
        self.courier = courier
        self.leaving = leaving
        self.receipts = receipts
        self.gate = Gate(database=database, service=service, door=door, plane=plane)
        self.answers = Answers(gate=self.gate, plane=plane)
        self.carrying = asyncio.Semaphore(FILES_AT_ONCE)

    def transaction(self) -> Any:
        """Open a transaction in the front door's workspace."""
        return self.database.transaction(self.door.workspace_id)
