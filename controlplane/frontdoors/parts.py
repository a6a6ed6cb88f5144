"""What all conversations of a front door work with."""

from typing import Any

from controlplane.frontdoors.contract import Service
from controlplane.frontdoors.courier import Courier
from controlplane.frontdoors.leaving import Leaving
from controlplane.frontdoors.plane import Plane
from controlplane.frontdoors.receipts import Receipts
from controlplane.store.frontdoors import FrontDoorRecord
from controlplane.store.pool import Database


class Parts:
    """What every conversation of a front door works with; ``key`` seals buttons."""

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

    def transaction(self) -> Any:
        """Open a transaction in the front door's workspace."""
        return self.database.transaction(self.door.workspace_id)
