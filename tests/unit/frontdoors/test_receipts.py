"""Signs that a message has been seen, at a service that wants few of them at a time."""

import asyncio
from collections import Counter
from typing import cast

from controlplane.frontdoors.contract import LimitedError, Said, Service
from controlplane.frontdoors.policy import Rules
from controlplane.frontdoors.receipts import Receipts
from tests.support.frontdoors import inbound

RULES = Rules(environment_id="env_1")


class Signs:
    """A service that gives signs and does nothing else; each at the tenth asking, once it is open."""

    def __init__(self, *, asked: int = 10):
        self.asked = Counter[str]()
        self.given: list[str] = []
        self.open = asyncio.Event()
        self.hundred = asyncio.Event()
        self._asked = asked

    async def is_of_team(self, person: str) -> bool:
        return person != "U02BOB"

    async def acknowledge(self, place: str, message: str) -> None:
        await self.open.wait()
        self.asked[message] += 1
        if self.asked[message] < self._asked:
            raise LimitedError(0.0)
        self.given.append(message)
        if len(self.given) == 100:
            self.hundred.set()


async def test_each_message_has_its_sign_however_often_the_service_has_had_enough() -> None:
    signs = Signs()
    receipts = Receipts(cast("Service", signs))
    signs.open.set()
    for n in range(100):
        receipts.note(inbound(Said(text="hello", addressed=True), message=f"{n}.0"), RULES)
        receipts.give(inbound(Said(text="hello", addressed=True), message=f"{n}.0"))
    receipts.note(inbound(Said(text="stop", addressed=True), message="word"), RULES)
    receipts.note(inbound(Said(text="hello", addressed=True), message="stranger", person="U02BOB"), RULES)
    async with asyncio.timeout(20):
        await signs.hundred.wait()
    assert sorted(signs.given) == sorted(f"{n}.0" for n in range(100))
    await receipts.close()


async def test_answers_let_the_signs_of_a_burst_go_first() -> None:
    signs = Signs(asked=1)
    receipts = Receipts(cast("Service", signs))
    await receipts.before_answers()
    for n in range(100):
        receipts.note(inbound(Said(text="hello", addressed=True), message=f"{n}.0"), RULES)
    answers = asyncio.create_task(receipts.before_answers())
    await asyncio.sleep(0)
    assert not answers.done()
    signs.open.set()
    await answers
    assert len(signs.given) > 80
    await receipts.close()
