"""Slack's Web API as a `Service`."""

import asyncio
from collections.abc import Awaitable, Mapping
from typing import Any, cast
from urllib.parse import urlsplit

import aiohttp
from slack_sdk.errors import SlackApiError
from slack_sdk.web.async_client import AsyncWebClient

from controlplane.frontdoors.contract import (
    AmbiguousError,
    Attachment,
    DeclinedError,
    LimitedError,
    Post,
    SharedFile,
)
from controlplane.frontdoors.slack import blocks

Json = Mapping[str, Any]

TIMEOUT_SECONDS = 20
"""Of one request; Slack mostly answers within three, and what is given up must be looked for."""

_PART_CHARACTERS = 11_000  # a message's markdown ends at 12,000, and all of its blocks near 13,000
_PLACE_PAUSE_SECONDS = 1.05  # "about one message a second for a channel"
_RETRY_AFTER_SECONDS = 5.0  # where Slack does not say
_PAGE = 200
_DOWNLOAD_BYTES = 200_000_000

_FILE_HOSTS = (".slack.com", ".slack-gov.com")
"""The token goes nowhere else: a file may be shared that another service keeps."""

_UNSURE = frozenset({"internal_error", "fatal_error", "service_unavailable", "request_timeout"})
_LIMITED = frozenset({"ratelimited", "rate_limited", "message_limit_exceeded"})


class SlackService:
    """What the front door says in Slack."""

    part_characters = _PART_CHARACTERS
    place_pause_seconds = _PLACE_PAUSE_SECONDS

    def __init__(self, client: AsyncWebClient):
        self._client = client
        self._names: dict[str, str] = {}
        self._has_status = True

    async def send(self, place: str, thread: str, post: Post) -> str:
        """See `Service.send`."""
        if isinstance(post.body, Attachment):
            shared = [{"id": post.body.remote, "title": post.body.name}]
            await self._ask(
                self._client.files_completeUploadExternal(files=shared, channel_id=place, thread_ts=thread)
            )
            return post.body.remote or ""
        answer = await self._ask(
            self._client.chat_postMessage(channel=place, thread_ts=thread, **blocks.message(post))
        )
        return str(answer["ts"])

    async def find(self, place: str, thread: str, post: Post) -> str | None:
        """See `Service.find`."""
        cursor: str | None = None
        while True:
            answer = await self._ask(
                self._client.conversations_replies(
                    channel=place, ts=thread, limit=_PAGE, include_all_metadata=True, cursor=cursor
                )
            )
            for message in cast("list[Json]", answer.get("messages") or []):
                if blocks.is_ours(message, post):
                    return (post.body.remote or "") if isinstance(post.body, Attachment) else str(message["ts"])
            cursor = (answer.get("response_metadata") or {}).get("next_cursor") or None
            if cursor is None:
                return None

    async def change(self, place: str, post: Post) -> None:
        """See `Service.change`."""
        said = {name: value for name, value in blocks.message(post).items() if not name.startswith("unfurl")}
        await self._ask(self._client.chat_update(channel=place, ts=post.remote or "", **said))

    async def withdraw(self, place: str, remote: str) -> None:
        """See `Service.withdraw`."""
        try:
            await self._ask(self._client.chat_delete(channel=place, ts=remote))
        except DeclinedError as error:
            if error.reason != "message_not_found":
                raise

    async def acknowledge(self, place: str, message: str) -> None:
        """See `Service.acknowledge`."""
        try:
            await self._ask(self._client.reactions_add(channel=place, timestamp=message, name="eyes"))
        except DeclinedError as error:
            if error.reason != "already_reacted":
                raise

    async def status(self, place: str, thread: str, text: str) -> bool:
        """See `Service.status`."""
        if not self._has_status:
            return False
        try:
            await self._ask(self._client.assistant_threads_setStatus(channel_id=place, thread_ts=thread, status=text))
        except DeclinedError as error:
            if error.reason in ("unknown_method", "missing_scope", "not_allowed_token_type", "method_deprecated"):
                self._has_status = False
            return False
        return True

    async def whisper(self, place: str, thread: str, person: str, text: str) -> None:
        """See `Service.whisper`."""
        said = blocks.fit_to_leave(text)
        await self._ask(self._client.chat_postEphemeral(channel=place, user=person, thread_ts=thread, text=said))

    async def names(self, people: list[str]) -> Mapping[str, str]:
        """See `Service.names`; a name is asked for once, and nobody waits for Slack because of one."""
        for person in people:
            if person in self._names:
                continue
            try:
                user = (await self._ask(self._client.users_info(user=person)))["user"]
            except (LimitedError, AmbiguousError, DeclinedError):
                continue
            self._names[person] = str(user.get("real_name") or user.get("name") or person)
        return {person: self._names.get(person, person) for person in people}

    async def content(self, file: SharedFile) -> bytes:
        """See `Service.content`."""
        if file.size_bytes > _DOWNLOAD_BYTES:
            raise DeclinedError("it is larger than 200 MB")
        host = urlsplit(file.url).hostname or ""
        if host != urlsplit(self._client.base_url).hostname and not host.endswith(_FILE_HOSTS):
            raise DeclinedError("it is not at Slack")
        headers = {"Authorization": f"Bearer {self._client.token}"}
        timeout = aiohttp.ClientTimeout(total=None, sock_read=TIMEOUT_SECONDS)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.get(file.url, headers=headers) as response,
            ):
                if response.status >= 400:
                    raise DeclinedError(f"Slack answered {response.status}")
                return await response.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise DeclinedError(f"it could not be fetched: {type(error).__name__}") from error

    async def prepare(self, attachment: Attachment, content: bytes) -> str:
        """See `Service.prepare`."""
        opened = await self._ask(
            self._client.files_getUploadURLExternal(filename=attachment.name, length=len(content))
        )
        timeout = aiohttp.ClientTimeout(total=None, sock_read=TIMEOUT_SECONDS)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.post(str(opened["upload_url"]), data=content) as response,
            ):
                if response.status >= 400:
                    raise AmbiguousError(f"the upload was answered {response.status}")
        except (aiohttp.ClientError, TimeoutError) as error:
            raise AmbiguousError(type(error).__name__) from error
        return str(opened["file_id"])

    async def _ask(self, asked: Awaitable[Any]) -> Json:
        try:
            answer = await asked
        except SlackApiError as error:
            raise _told(error) from error
        except (aiohttp.ClientError, TimeoutError, asyncio.IncompleteReadError, OSError) as error:
            raise AmbiguousError(type(error).__name__) from error
        return cast("Json", answer.data)


def _told(error: SlackApiError) -> Exception:
    """Return what an answer that is no success means for whoever asked."""
    response: Any = error.response
    status = int(getattr(response, "status_code", 0) or 0)
    data: Any = getattr(response, "data", response)
    reason = str(data.get("error", "")) if isinstance(data, dict) else ""
    if status == 429 or reason in _LIMITED:
        headers = {str(name).lower(): value for name, value in dict(getattr(response, "headers", {}) or {}).items()}
        return LimitedError(_seconds(headers.get("retry-after")))
    if status >= 500 or not reason or reason in _UNSURE:
        return AmbiguousError(reason or f"HTTP {status}", answered=status == 500 or reason in _UNSURE)
    return DeclinedError(reason)


def _seconds(given: Any) -> float:
    try:
        return max(1.0, float(given[0] if isinstance(given, list) else given))
    except (TypeError, ValueError):
        return _RETRY_AFTER_SECONDS
