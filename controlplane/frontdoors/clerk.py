"""What becomes of what a person says or presses: a message to the session, a word, a decision, or a refusal."""

import asyncio
import secrets
from typing import Any, Literal

import structlog

from controlplane.errors import NotFoundError
from controlplane.frontdoors import words
from controlplane.frontdoors.answers import NO_SESSION
from controlplane.frontdoors.contract import (
    AmbiguousError,
    Card,
    Choice,
    DeclinedError,
    Inbound,
    LimitedError,
    Pressed,
    Said,
    Text,
)
from controlplane.frontdoors.failures import MOST_FAILURES
from controlplane.frontdoors.opening import Opening
from controlplane.frontdoors.parts import Parts
from controlplane.frontdoors.plane import RefusedError
from controlplane.frontdoors.policy import Rules
from controlplane.frontdoors.seals import holds
from controlplane.frontdoors.words import Heard
from controlplane.store import front_door_inbox, front_door_posts, front_door_threads, frontdoors, queue, standing
from controlplane.store.front_door_inbox import Item
from controlplane.store.front_door_threads import DoorThread
from controlplane.store.pool import Connection

_LOOK_PAUSE_SECONDS = 0.5
_LOOKS_PER_STOP = 10  # a turn that waits behind the one that was stopped is stopped after these
_LOOKS_AT_A_QUEUE = 40  # a turn that can begin has begun by then
_MOST_LOOKS = 240  # each with an answer of the API, so that an outage is none

_NOT_ITS_PLACE = "this thread's agent does not answer in this place any more"

_Now = Literal["runs", "asks", "queued", "rests"]

_log = structlog.get_logger(__name__)


class Clerk:
    """Acts on items; each step may be done again after a crash, and comes to the same."""

    def __init__(self, parts: Parts):
        self._parts = parts
        self._opening = Opening(parts)

    async def said(self, at: DoorThread, item: Item, said: Said) -> None:
        """Act on a message."""
        inbound, rules = item.inbound, await self._parts.gate.rules()
        if not await self._may_talk(item, rules):
            return
        if not at.let_in:
            async with self._parts.transaction() as connection:
                await front_door_inbox.let_in(connection, at, item)
        heard = await self._heard(said, at, rules)
        if heard.word is None and not heard.text and not said.files:
            heard = Heard("help", None, "")
        if heard.word is not None:
            await self._word(at, item, heard, rules)
            return
        self._parts.receipts.give(inbound)
        found = await self._with_agent(at, item, heard, rules)
        if found is None:
            return
        at = found
        try:
            request = item.request or await self._opening.planned(at, item, heard, said)
            at = await self._opening.with_session(at, item, request, rules)
            now = await self._now(at)
            await self._opening.tell(at, item, request)
            stuck = await self._stuck(at) if now in ("rests", "queued") else None
        except RefusedError as error:
            if error.code not in ("session_terminated", "session_archived"):
                raise
            await self.answer(
                at, item, ":warning: this session has ended; say `new` to begin another", state="refused"
            )
            return
        if stuck is not None:
            await self.answer(at, item, stuck)
            return
        await self._settle(item)
        if now == "asks":
            await self._whisper(inbound, "Your message waits: first somebody has to decide about the call above.")
        elif now == "runs":
            how = "goes into what I am doing" if heard.steers else "waits until I am through with the present one"
            await self._whisper(inbound, f"Your message {how}.")

    async def _heard(self, said: Said, at: DoorThread, rules: Rules) -> Heard:
        heard = words.hear(said.text, begun=at.session_id is not None)
        name = words.maybe_agent(said.text) if heard.word is None else None
        if name is not None and name in (await self._parts.gate.agents(rules, at.place)).values():
            return Heard("use", name, "")
        return heard

    async def pressed(self, at: DoorThread, item: Item, pressed: Pressed) -> None:
        """Act on a button; who presses it is asked about now, not when it was made."""
        inbound, rules = item.inbound, await self._parts.gate.rules()
        if not await self._may_talk(item, rules):
            return
        if pressed.action == "choose":
            await self._chosen(at, item, pressed.value, rules)
        elif pressed.action == "stop":
            await self._stop(at, item)
        elif pressed.action == "resume":
            await self._resume(at, item, rules)
        elif pressed.action != "deny" and not self._may_answer(at, rules):
            await self._refuse(item, "agent_not_here", _NOT_ITS_PLACE)
        elif not rules.may_decide(inbound.place, inbound.person):
            await self._refuse(item, "may_not_decide", "you may not decide about this agent's calls here")
        else:
            await self._decide(at, item, pressed)

    async def stop(self, at: DoorThread, item: Item) -> None:
        """Act on a sign that what runs in the thread is to stop."""
        if not at.let_in:
            await self._settle(item)  # where nobody was let in, nothing is said about it either
        elif await self._may_talk(item, await self._parts.gate.rules()):
            await self._stop(at, item)

    async def _stop(self, at: DoorThread, item: Item) -> None:
        if await self._now(at) == "rests":
            await self._whisper(item.inbound, "Nothing is running in this thread.")
        else:
            await self._interrupt(at, f"{item.id}:stop")
            self._parts.receipts.give(item.inbound)
        await self._settle(item)

    async def turn_away(self, item: Item) -> None:
        """Refuse an item because the front door's key was revoked."""
        await self._refuse(item, "key_revoked", "nobody is let in here any more: this front door's key was revoked")

    async def answer(
        self, at: DoorThread, item: Item, markdown: str, *, state: Literal["done", "refused"] = "done"
    ) -> None:
        """Say something in the thread and be done with an item, in one step."""
        async with self._parts.transaction() as connection:
            await self._answer_in(connection, at, item.id, markdown, state=state)

    async def _answer_in(
        self,
        connection: Connection,
        at: DoorThread,
        item_id: str,
        markdown: str,
        *,
        state: Literal["done", "refused"] = "done",
    ) -> None:
        body = Text(markdown=markdown)
        await front_door_posts.intend(connection, at, self._parts.door.workspace_id, f"reply:{item_id}", body)
        await front_door_inbox.settle(connection, item_id, state)

    async def failed(self, at: DoorThread, item_id: str, error: Exception, *, person: str = "") -> bool:
        """Count that an item could not be acted on. After `MOST_FAILURES` the thread is told, and has heard it: what
        is said after it waits behind it. Returns whether that is so."""
        kind = type(error).__name__
        async with self._parts.transaction() as connection:
            if await front_door_inbox.failed(connection, item_id) < MOST_FAILURES:
                return False
            await frontdoors.refuse(
                connection, self._parts.door, reason=f"failed: {kind}", place=at.place, person=person
            )
            said = f":warning: This could not be done: it failed {MOST_FAILURES} times (`{kind}`) and is left now."
            await self._answer_in(connection, at, item_id, said, state="refused")
        _log.error("item_given_up", thread_id=at.id, item_id=item_id, error=kind)
        return True

    async def _word(self, at: DoorThread, item: Item, heard: Heard, rules: Rules) -> None:
        match heard.word:
            case "new":
                await self._begin_anew(at, item, None, "The next message begins a new session.")
            case "use":
                agent_id = await self._named(rules, item.inbound.place, heard.agent or "")
                said = f"`{heard.agent}` answers from now on, in a new session."
                await self._begin_anew(at, item, agent_id, said)
            case "stop":
                await self._stop(at, item)
            case "resume":
                await self._resume(at, item, rules)
            case _:
                said = await self._parts.answers.to(heard.word, at.session_id, rules, item.inbound.place)
                await self.answer(at, item, said)

    async def _begin_anew(self, at: DoorThread, item: Item, agent_id: str | None, said: str) -> None:
        """Leave a session for another. What still runs there is stopped first, and told: nobody follows it later.

        Done at once with the word itself: taken up again it would stop what begins with its choice.
        """
        if await self._stopped(at, item):
            said = f"I have stopped what was running. {said}"
        async with self._parts.transaction() as connection:
            if agent_id is None:
                await front_door_threads.choose(connection, at.id, None)
            else:
                await self._choose_in(connection, at, agent_id)
            await self._answer_in(connection, at.model_copy(update={"session_id": None}), item.id, said)

    async def _stopped(self, at: DoorThread, item: Item) -> bool:
        """Stop what runs in a thread, with what waits there, and return when all of it is on record.

        Returns whether anything had to be stopped. Under a freeze a message that waits begins no turn, and stays.
        """
        stopped = False
        for looks in range(_MOST_LOOKS):
            now = await self._now(at)
            if now == "rests" or (now == "queued" and looks >= _LOOKS_AT_A_QUEUE):
                if await self._is_told(at):
                    return stopped
            elif looks % _LOOKS_PER_STOP == 0:
                # Each is another request: a turn that began since is to stop too, also after a crash.
                await self._interrupt(at, f"{item.id}:stop:{secrets.token_hex(8)}")
                stopped = True
            await asyncio.sleep(_LOOK_PAUSE_SECONDS)
        raise RefusedError("what runs here has not stopped yet; say it again in a while", "not_stopped")

    async def _is_told(self, at: DoorThread) -> bool:
        async with self._parts.transaction() as connection:
            return await front_door_threads.with_news(connection, at.id) is None

    async def _interrupt(self, at: DoorThread, key: str) -> None:
        path = f"/v1/sessions/{at.session_id}/events"
        await self._parts.plane.post(path, {"events": [{"type": "user.interrupt"}]}, key=key)

    async def _resume(self, at: DoorThread, item: Item, rules: Rules) -> None:
        if at.session_id is None:
            await self.answer(at, item, NO_SESSION)
            return
        if not self._may_answer(at, rules):
            await self._refuse(item, "agent_not_here", _NOT_ITS_PLACE)
            return
        await self._parts.plane.post(f"/v1/sessions/{at.session_id}/resume", {}, key=f"{item.id}:resume")
        self._parts.receipts.give(item.inbound)
        await self._settle(item)

    async def _decide(self, at: DoorThread, item: Item, pressed: Pressed) -> None:
        tool_use_id, _, given = pressed.value.partition(":")
        async with self._parts.transaction() as connection:
            card = (await front_door_posts.bodies(connection, at.id, f"card:{tool_use_id}")).get(
                f"card:{tool_use_id}"
            )
        if not isinstance(card, Card) or not holds(given, card.seal):
            await self._refuse(item, "forged_button", "this button is not one of ours")
            return
        if card.outcome is not None and item.request is None:
            await self._whisper(item.inbound, f"Too late: {card.outcome}.")
            await self._settle(item)
            return
        decision = item.request or await self._decision(item, pressed)
        try:
            await self._parts.plane.post(f"/v1/approvals/{tool_use_id}", decision, key=f"{item.id}:decision")
        except RefusedError as error:
            await self._whisper(item.inbound, str(error))
            await self._settle(item, "refused")
            return
        await self._settle(item)

    async def _decision(self, item: Item, pressed: Pressed) -> dict[str, Any]:
        """Return what is decided, laid down before it is sent: the same again, whatever the person is called then."""
        person = item.inbound.person
        who = (await self._parts.service.names([person])).get(person, person)
        decision: dict[str, Any] = {
            "result": "deny" if pressed.action == "deny" else "allow",
            "on_behalf_of": f"{who} ({self._parts.door.kind} {person})",
        }
        if pressed.action == "deny" and pressed.reason:
            decision["deny_message"] = pressed.reason
        if pressed.action == "allow_session":
            decision["remember"] = "session"
        async with self._parts.transaction() as connection:
            await front_door_inbox.plan(connection, item.id, decision)
        return decision

    async def _chosen(self, at: DoorThread, item: Item, agent_id: str, rules: Rules) -> None:
        if agent_id not in await self._parts.gate.agents(rules, item.inbound.place):
            await self._refuse(item, "agent_not_here", "that agent does not answer here")
            return
        async with self._parts.transaction() as connection:
            if at.agent_id is None:
                await self._choose_in(connection, at, agent_id)
            else:
                await front_door_inbox.release_held(connection, at)
            await front_door_inbox.settle(connection, item.id)

    async def _with_agent(self, at: DoorThread, item: Item, heard: Heard, rules: Rules) -> DoorThread | None:
        """Return the thread with the agent that is to answer. None: it is asked for, or what had waited for it comes
        before this."""
        place = item.inbound.place
        if at.agent_id is not None and (heard.agent is None or at.session_id is not None):
            if not self._may_answer(at, rules):
                raise RefusedError(_NOT_ITS_PLACE, "agent_not_here")
            return at
        named = await self._named(rules, place, heard.agent) if heard.agent else None
        agent_id = named or rules.default_agent(place)
        if agent_id is None:
            names = await self._parts.gate.agents(rules, place)
            if len(names) != 1:
                await self._ask_which(at, item, names)
                return None
            (agent_id,) = names
        async with self._parts.transaction() as connection:
            released = await self._choose_in(connection, at, agent_id)
            if released:
                await front_door_inbox.reword(
                    connection, item.id, f"now: {heard.text}" if heard.steers else heard.text
                )
        return None if released else await self._again(at)

    async def _choose_in(self, connection: Connection, at: DoorThread, agent_id: str) -> bool:
        """Have an agent answer, and what waited for one go on; the question which one says so. Return whether
        anything had waited."""
        await front_door_threads.choose(connection, at.id, agent_id)
        released = await front_door_inbox.release_held(connection, at)
        asked = (await front_door_posts.bodies(connection, at.id, "choice")).get("choice")
        if released and isinstance(asked, Choice):
            name = asked.agents.get(agent_id, agent_id)
            await front_door_posts.revise(connection, at.id, "choice", Text(markdown=f"`{name}` answers here."))
        return released

    async def _ask_which(self, at: DoorThread, item: Item, names: dict[str, str]) -> None:
        if not names:
            await self.answer(at, item, "There is no agent that answers here.", state="refused")
            return
        async with self._parts.transaction() as connection:
            body = Choice(agents=names)
            await front_door_posts.intend(connection, at, self._parts.door.workspace_id, "choice", body)
            await front_door_inbox.hold(connection, item.id)

    async def _again(self, at: DoorThread) -> DoorThread:
        async with self._parts.transaction() as connection:
            return await front_door_threads.find(connection, at.id) or at

    async def _named(self, rules: Rules, place: str, name: str) -> str:
        for agent_id, each in (await self._parts.gate.agents(rules, place)).items():
            if name in (agent_id, each):
                return agent_id
        raise RefusedError(f"no agent `{name}` answers here; `agents` lists those who do", "agent_not_here")

    @staticmethod
    def _may_answer(at: DoorThread, rules: Rules) -> bool:
        """Say whether a thread's agent may still answer there."""
        return at.agent_id is None or rules.may_answer(at.place, at.agent_id)

    async def _stuck(self, at: DoorThread) -> str | None:
        """Return what to say of a message that is left lying as things stand; None: a turn will take it, or has.

        Looks twice: between a thaw, a raised budget or an end and what follows from it there is a moment.
        """
        if not await self._lies_still(at):
            return None
        await asyncio.sleep(_LOOK_PAUSE_SECONDS)
        if not await self._lies_still(at):
            return None
        explanation = await self._parts.plane.get(f"/v1/sessions/{at.session_id}/explanation")
        return f"Your message waits, and nothing runs.\n{words.standing(at.session_id or '', explanation)}"

    async def _lies_still(self, at: DoorThread) -> bool:
        """Say whether something waits in a session that no turn will take as things stand."""
        async with self._parts.transaction() as connection:
            try:
                found = await standing.of_session(connection, at.session_id or "")
            except NotFoundError:
                return False
            goes_on = found.resume_wanted and (found.resume_at is None or found.resume_at <= found.now)
            if found.turn is not None or not found.waiting or (goes_on and found.frozen_at is None):
                return False
            return found.frozen_at is not None or not await queue.more(connection, found.session_id)

    async def _session(self, at: DoorThread) -> dict[str, Any]:
        return await self._parts.plane.get(f"/v1/sessions/{at.session_id}")

    async def _now(self, at: DoorThread) -> _Now:
        """Return what a thread's session does; ``queued``: a message waits for a turn that is still to begin."""
        if at.session_id is None:
            return "rests"
        session = await self._session(at)
        if session["status"] in ("running", "rescheduling"):
            return "runs"
        if (session["stop_reason"] or {}).get("type") == "requires_action":
            return "asks"
        async with self._parts.transaction() as connection:
            return "queued" if await queue.more(connection, at.session_id) else "rests"

    async def _may_talk(self, item: Item, rules: Rules) -> bool:
        """Say whether a person may talk here, now; who may not is refused."""
        inbound = item.inbound
        denial = await self._parts.gate.denial(
            rules,
            inbound.place,
            inbound.person,
            vouched=inbound.vouched,
            is_of_team=lambda person: self._parts.courier.patiently(
                "person", lambda: self._parts.service.is_of_team(person)
            ),
        )
        if denial is not None:
            await self._refuse(item, denial.reason, denial.said)
            return False
        return True

    async def _settle(self, item: Item, state: Literal["done", "refused"] = "done") -> None:
        async with self._parts.transaction() as connection:
            await front_door_inbox.settle(connection, item.id, state)

    async def _refuse(self, item: Item, reason: str, said: str) -> None:
        inbound = item.inbound
        async with self._parts.transaction() as connection:
            await frontdoors.refuse(
                connection, self._parts.door, reason=reason, place=inbound.place, person=inbound.person
            )
            await front_door_inbox.settle(connection, item.id, "refused")
        await self._whisper(inbound, f"Sorry, {said}.")

    async def _whisper(self, inbound: Inbound, text: str) -> None:
        """Say something that may be lost: nothing hangs on it."""
        try:
            said = await self._parts.leaving.text(text)
            begins = inbound.message == inbound.thread
            thread = None if begins else inbound.thread
            await self._parts.service.whisper(inbound.place, thread, inbound.person, said)
        except (LimitedError, AmbiguousError, DeclinedError):
            return
