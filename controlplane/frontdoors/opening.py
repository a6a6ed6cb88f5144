"""What a message becomes for its session: the request with who says it and the files that it has, and the session."""

import asyncio
from typing import Any

from controlplane.frontdoors.contract import AmbiguousError, DeclinedError, LimitedError, Said, SharedFile
from controlplane.frontdoors.parts import Parts
from controlplane.frontdoors.plane import RefusedError
from controlplane.frontdoors.policy import Rules
from controlplane.frontdoors.words import Heard
from controlplane.store import front_door_inbox, front_door_threads
from controlplane.store.front_door_inbox import Item
from controlplane.store.front_door_threads import DoorThread

_VISIBLE_TO_MODELS = ("image/png", "image/jpeg", "image/gif", "image/webp")
_TITLE_CHARACTERS = 80
_KEYS_KNOWN_SECONDS = 20 * 3600.0  # the API forgets a request's key after a day
_LATER = ", in the next sandbox of this session: one that runs already does not have it"
_FETCH_TRIES = 8  # of a file, in some two minutes
_FETCH_PAUSE_SECONDS = 1.0
_LONGEST_FETCH_PAUSE_SECONDS = 30.0


class Opening:
    """Lays down what is sent before it is, so that it is the same request however often it is sent."""

    def __init__(self, parts: Parts):
        self._parts = parts

    async def planned(self, at: DoorThread, item: Item, heard: Heard, said: Said) -> dict[str, Any]:
        """Return what is sent for a message."""
        person = item.inbound.person
        name = (await self._parts.service.names([person])).get(person, person)
        from_whom = f"{_one_line(name)} ({self._parts.door.kind} {person}) says:"
        content: list[dict[str, Any]] = [{"type": "text", "text": from_whom}]
        mounts: list[dict[str, Any]] = []
        for file in said.files:
            await self._file(at, item, file, content, mounts)
        if heard.text:
            content.append({"type": "text", "text": heard.text})
        message: dict[str, Any] = {"type": "user.message", "content": content}
        if heard.steers:
            message["delivery"] = "steer"
        request = {"events": [message], "mounts": mounts, "title": _one_line(heard.text)[:_TITLE_CHARACTERS]}
        async with self._parts.transaction() as connection:
            await front_door_inbox.plan(connection, item.id, request)
            await front_door_threads.spoke(connection, at.id, person)
        return request

    async def with_session(self, at: DoorThread, item: Item, request: dict[str, Any], rules: Rules) -> DoorThread:
        """Return a thread with its session, in which the files of a message are; it is made if there is none yet."""
        if at.session_id is not None:
            for mount in request["mounts"]:
                path = f"/v1/sessions/{at.session_id}/resources"
                await self._parts.plane.post(path, mount, key=f"{item.id}:mount:{mount['file_id']}")
            return at
        opening = at.opening or {
            "request": {
                "agent": at.agent_id,
                "environment_id": rules.environment_id,
                "vault_ids": rules.vault_ids,
                "title": request["title"] or None,
                "resources": request["mounts"],
                "metadata": {"front_door": self._parts.door.id, "place": at.place, "thread": at.thread},
            },
            "key": f"{item.id}:session",
        }
        async with self._parts.transaction() as connection:
            await front_door_threads.open_with(connection, at.id, opening)
        try:
            session_id = await self._made(at, item, opening)
        except RefusedError:
            # Asked for again with what the next message says: what was refused may be this one's files.
            async with self._parts.transaction() as connection:
                await front_door_threads.open_with(connection, at.id, None)
            raise
        async with self._parts.transaction() as connection:
            await front_door_threads.opened(connection, at.id, session_id)
        return at.model_copy(update={"session_id": session_id, "opening": opening, "seen_seq": 0})

    async def tell(self, at: DoorThread, item: Item, request: dict[str, Any]) -> None:
        """Give the session a message."""
        if item.request is not None and item.age_seconds > _KEYS_KNOWN_SECONDS:
            async with self._parts.transaction() as connection:
                if await front_door_inbox.told_before(connection, at.session_id or "", item):
                    return
        path = f"/v1/sessions/{at.session_id}/events"
        await self._parts.plane.post(path, {"events": request["events"]}, key=f"{item.id}:message")

    async def _file(
        self,
        at: DoorThread,
        item: Item,
        file: SharedFile,
        content: list[dict[str, Any]],
        mounts: list[dict[str, Any]],
    ) -> None:
        """Take over a file: mounted in the session's sandbox, and shown to the model if it can see such."""
        async with self._parts.carrying:
            try:
                file, data = await self._fetched(file)
            except DeclinedError as error:
                content.append({"type": "text", "text": f"[file {file.name!r} could not be fetched: {error.reason}]"})
                return
            file_id = await self._parts.plane.upload(file, data, key=f"{item.id}:file:{file.id}")
            del data
        path = f"/mnt/session/uploads/{file_id}"
        mounts.append({"type": "file", "file_id": file_id, "mount_path": path})
        where = path if at.session_id is None else f"{path}{_LATER}"
        content.append({"type": "text", "text": f"[file {_one_line(file.name)!r}: {where}]"})
        kind = "image" if file.media_type in _VISIBLE_TO_MODELS else "document"
        content.append({"type": kind, "source": {"type": "file", "file_id": file_id}})

    async def _fetched(self, file: SharedFile) -> tuple[SharedFile, bytes]:
        pause, reason = _FETCH_PAUSE_SECONDS, ""
        for _ in range(_FETCH_TRIES):
            try:
                file = await self._parts.service.described(file)
                return file, await self._parts.service.content(file)
            except LimitedError as error:
                pause, reason = error.seconds, "it was asked for too often"
            except AmbiguousError as error:
                reason = str(error)
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_FETCH_PAUSE_SECONDS)
        raise DeclinedError(reason)

    async def _made(self, at: DoorThread, item: Item, opening: dict[str, Any]) -> str:
        """Make a thread's session and return its id."""
        if at.opening is not None and item.age_seconds > _KEYS_KNOWN_SECONDS:
            async with self._parts.transaction() as connection:
                found = await front_door_threads.made_before(connection, at, seconds=item.age_seconds)
            if found is not None:
                return found
        return (await self._parts.plane.post("/v1/sessions", opening["request"], key=opening["key"]))["id"]


def _one_line(text: str) -> str:
    return " ".join(text.split())
