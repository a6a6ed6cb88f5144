"""Slack's Web API as a `Service`."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Mapping, Set
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast
from urllib.parse import urlsplit

import aiohttp
import structlog
from slack_sdk.errors import SlackApiError
from slack_sdk.web.async_client import AsyncWebClient

from controlplane.frontdoors.contract import (
    AmbiguousError,
    Attachment,
    DeclinedError,
    LimitedError,
    NotStreamedError,
    Post,
    SharedFile,
    Text,
)
from controlplane.frontdoors.slack import blocks, inbound

Json = Mapping[str, Any]

TIMEOUT_SECONDS = 20
"""Of one request; Slack mostly answers within three, and what is given up must be looked for."""

_PART_CHARACTERS = 11_000  # a message's markdown ends at 12,000, and all of its blocks near 13,000
_PLACE_PAUSE_SECONDS = 1.05  # "about one message a second for a channel"
_RETRY_AFTER_SECONDS = 5.0  # where Slack does not say
_PAGE = 200
_DOWNLOAD_BYTES = 200_000_000
_TOO_LARGE = "it is larger than 200 MB"
_PAGE_INSTEAD = "Slack shows a page instead of it: is files:read among the app's scopes?"
_CHUNK_BYTES = 1_000_000
_HTML = "text/html"
_PERSON_SECONDS = 600.0  # then Slack is asked again who somebody is: people are renamed, and leave

_FILE_HOSTS = (".slack.com", ".slack-gov.com")
"""The token goes nowhere else: a file may be shared that another service keeps."""

_NO_STREAMS = frozenset({"unknown_method", "missing_scope", "not_allowed_token_type", "method_deprecated"})
_EDIT_SECONDS = 3.0  # a minute has room for some fifty changes of messages, of all threads together

LIMITED = frozenset({"ratelimited", "rate_limited", "message_limit_exceeded"})
UNSURE = frozenset({"internal_error", "fatal_error", "service_unavailable", "request_timeout"})
_SHUT_OUT = frozenset({
    "token_revoked", "token_expired", "invalid_auth", "not_authed", "account_inactive", "access_denied",
    "team_access_not_granted", "ekm_access_denied", "org_login_required", "team_added_to_org",
})  # fmt: skip
"""What Slack says about our token whatever is asked: it holds until somebody mends that, and then all is sent."""

_PLACE = frozenset({
    "channel_not_found", "not_in_channel", "is_archived", "channel_is_limited_access", "messages_tab_disabled",
    "restricted_action", "restricted_action_non_threadable_channel", "restricted_action_read_only_channel",
    "restricted_action_thread_locked", "restricted_action_thread_only_channel", "cannot_reply_to_message",
    "thread_not_found", "team_not_found", "no_permission", "missing_scope", "not_allowed_token_type",
})  # fmt: skip
"""What Slack says where nothing of ours can stand; all else that it declines may stand there in another form."""

_CHANGE = frozenset({
    "message_not_found", "cant_update_message", "edit_window_closed", "streaming_state_conflict",
    "message_not_in_streaming_state",
})  # fmt: skip

_log = structlog.get_logger(__name__)


@dataclass
class _Stream:
    """A message that is being written: what it says so far, and whether it can be added to."""

    said: str
    open: bool = True
    edited_at: float = 0.0


class SlackService:
    """What the front door says in Slack."""

    part_characters = _PART_CHARACTERS
    place_pause_seconds = _PLACE_PAUSE_SECONDS

    def __init__(self, client: AsyncWebClient, *, team: str, bot_user: str, person_seconds: float = _PERSON_SECONDS):
        self._client = client
        self._team = team
        self._bot_user = bot_user
        self._person_seconds = person_seconds
        self._people: dict[str, tuple[float, Json]] = {}
        self._has_status = True
        self._streams: dict[str, _Stream] = {}
        self.streams = True

    async def send(self, place: str, thread: str | None, post: Post) -> str:
        """See `Service.send`."""
        if isinstance(post.body, Text) and post.body.live_for is not None:
            return await self._begin(place, thread, post.body, recipient=post.body.live_for)
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

    async def _begin(self, place: str, thread: str | None, text: Text, *, recipient: str) -> str:
        if thread is None or not self.streams:
            raise NotStreamedError("no thread, or no streams here")
        try:
            answer = await self._ask(
                self._client.chat_startStream(
                    channel=place,
                    thread_ts=thread,
                    markdown_text=text.markdown,
                    recipient_user_id=recipient,
                    recipient_team_id=self._team,
                )
            )
        except DeclinedError as error:
            self.streams = error.reason not in _NO_STREAMS
            raise NotStreamedError(error.reason) from error
        remote = str(answer["ts"])
        self._streams[remote] = _Stream(text.markdown)
        return remote

    async def find(
        self, place: str, thread: str | None, post: Post, *, others: Set[str], since: datetime
    ) -> str | None:
        """See `Service.find`."""
        cursor: str | None = None
        oldest = f"{since.timestamp():.6f}"
        while True:
            if thread is not None:
                asked = self._client.conversations_replies(
                    channel=place, ts=thread, limit=_PAGE, include_all_metadata=True, cursor=cursor
                )
            else:
                asked = self._client.conversations_history(
                    channel=place, limit=_PAGE, include_all_metadata=True, oldest=oldest, cursor=cursor
                )
            answer = await self._ask(asked)
            for message in cast("list[Json]", answer.get("messages") or []):
                if blocks.is_ours(message, post) or (post.streamed and self._is_bare(message, thread, others)):
                    return (post.body.remote or "") if isinstance(post.body, Attachment) else str(message["ts"])
            cursor = (answer.get("response_metadata") or {}).get("next_cursor") or None
            if cursor is None:
                return None

    def _is_bare(self, message: Json, thread: str | None, others: Set[str]) -> bool:
        """Say whether a message of ours carries nothing that all carry but those that were begun as streams."""
        ts = str(message.get("ts"))
        carries = message.get("metadata") or message.get("files") or message.get("subtype")
        return message.get("user") == self._bot_user and not carries and ts not in {thread, *others}

    async def change(self, place: str, post: Post) -> None:
        """See `Service.change`."""
        remote = post.remote or ""
        if isinstance(post.body, Text) and post.body.live_for is not None:
            await self._go_on(place, post, post.body)
            return
        if post.streamed:
            self._streams.pop(remote, None)
            await self._stop(place, remote)
        await self._update(place, post)

    async def _go_on(self, place: str, post: Post, text: Text) -> None:
        """Add to a stream what it lacks. One that has ended, of itself or in doubt, is changed as a whole instead."""
        remote = post.remote or ""
        stream = self._streams.get(remote)
        if stream is None:
            return  # another process began it: the whole text is what comes next
        if stream.open and text.markdown.startswith(stream.said):
            more = text.markdown[len(stream.said) :]
            try:
                await self._ask(self._client.chat_appendStream(channel=place, ts=remote, markdown_text=more))
            except (DeclinedError, AmbiguousError):
                stream.open = False  # what was added twice, or not at all, is put right by the change
            else:
                stream.said = text.markdown
                return
        if time.monotonic() - stream.edited_at >= _EDIT_SECONDS:
            stream.open, stream.edited_at = False, time.monotonic()
            await self._stop(place, remote)
            await self._update(place, post)

    async def _stop(self, place: str, remote: str) -> None:
        """End a stream; one that has ended is no error."""
        with contextlib.suppress(DeclinedError):
            await self._ask(self._client.chat_stopStream(channel=place, ts=remote))

    async def _update(self, place: str, post: Post) -> None:
        said = {name: value for name, value in blocks.message(post).items() if not name.startswith("unfurl")}
        await self._ask(self._client.chat_update(channel=place, ts=post.remote or "", **said))

    async def withdraw(self, place: str, remote: str) -> None:
        """See `Service.withdraw`."""
        if self._streams.pop(remote, None) is not None:
            await self._stop(place, remote)
        try:
            await self._ask(self._client.chat_delete(channel=place, ts=remote))
        except DeclinedError as error:
            if error.reason != "message_not_found":
                raise

    async def thread_of(self, place: str, message: str) -> str | None:
        """Return in which thread a message stands, as Slack has it; raises what any request does."""
        answer = await self._ask(self._client.conversations_replies(channel=place, ts=message, limit=1))
        found = [each for each in cast("list[Json]", answer.get("messages") or []) if each.get("ts") == message]
        return str(found[0].get("thread_ts") or message) if found else None

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

    async def whisper(self, place: str, thread: str | None, person: str, text: str) -> None:
        """See `Service.whisper`; in a thread without an answer Slack shows it to nobody (docs.slack.dev)."""
        await self._ask(self._client.chat_postEphemeral(channel=place, user=person, thread_ts=thread, text=text))

    async def names(self, people: list[str]) -> Mapping[str, str]:
        """See `Service.names`; nobody waits for Slack because of one: until it answers, what it last said holds."""
        found: dict[str, str] = {}
        for person in people:
            try:
                user = await self._person(person)
            except (LimitedError, AmbiguousError, DeclinedError):
                _, user = self._people.get(person, (0.0, {}))
            found[person] = str(user.get("real_name") or user.get("name") or person)
        return found

    async def is_of_team(self, person: str) -> bool:
        """See `Service.is_of_team`."""
        try:
            user = await self._person(person)
        except DeclinedError:
            return False
        team = user.get("team_id") or (user.get("profile") or {}).get("team")
        return not user.get("is_stranger") and team in (None, self._team)

    async def _person(self, person: str) -> Json:
        known_at, user = self._people.get(person, (0.0, {}))
        if not user or time.monotonic() - known_at > self._person_seconds:
            user = (await self._ask(self._client.users_info(user=person)))["user"]
            self._people[person] = (time.monotonic(), user)
        return user

    async def described(self, file: SharedFile) -> SharedFile:
        """See `Service.described`; of a file that another workspace keeps, Slack says in an event only that it is."""
        if file.url:
            return file
        return inbound.described((await self._ask(self._client.files_info(file=file.id)))["file"])

    async def content(self, file: SharedFile) -> bytes:
        """See `Service.content`."""
        if file.size_bytes > _DOWNLOAD_BYTES:
            raise DeclinedError(_TOO_LARGE)
        self._check_address(file.url)
        headers = {"Authorization": f"Bearer {self._client.token}"}
        timeout = aiohttp.ClientTimeout(total=None, sock_read=TIMEOUT_SECONDS)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.get(file.url, headers=headers, allow_redirects=False) as response,
            ):
                if response.status == 429:
                    raise LimitedError(_seconds(response.headers.get("retry-after")))
                if response.status >= 500:
                    raise AmbiguousError(f"Slack answered {response.status}")
                if response.status >= 400:
                    raise DeclinedError(f"Slack answered {response.status}")
                is_page = response.content_type == _HTML and file.media_type != _HTML
                if response.status >= 300 or is_page:
                    raise DeclinedError(_PAGE_INSTEAD)
                return await _read(response)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise AmbiguousError(type(error).__name__) from error

    def _check_address(self, url: str) -> None:
        """Raise if the token is not to be shown there: elsewhere than at Slack, or where others can read it."""
        api = urlsplit(self._client.base_url)
        try:
            at, host = urlsplit(url), urlsplit(url).hostname or ""
        except ValueError as error:
            raise DeclinedError("its address is none") from error
        if host != api.hostname and not host.endswith(_FILE_HOSTS):
            raise DeclinedError("it is not at Slack")
        if at.scheme != "https" and (at.scheme != api.scheme or host != api.hostname):
            raise DeclinedError("its address is not https")

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


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """Return what is sent, whatever was said about its size."""
    content = bytearray()
    async for piece in response.content.iter_chunked(_CHUNK_BYTES):
        content += piece
        if len(content) > _DOWNLOAD_BYTES:
            raise DeclinedError(_TOO_LARGE)
    return bytes(content)


def _told(error: SlackApiError) -> Exception:
    """Return what an answer that is no success means for whoever asked."""
    response: Any = error.response
    status = int(getattr(response, "status_code", 0) or 0)
    data: Any = getattr(response, "data", response)
    reason = str(data.get("error", "")) if isinstance(data, dict) else ""
    if status == 429 or reason in LIMITED:
        headers = {str(name).lower(): value for name, value in dict(getattr(response, "headers", {}) or {}).items()}
        return LimitedError(_seconds(headers.get("retry-after")))
    if reason in _SHUT_OUT:
        _log.warning("slack_shuts_us_out", reason=reason)
        return AmbiguousError(reason, answered=True)
    if status >= 500 or not reason or reason in UNSURE:
        return AmbiguousError(reason or f"HTTP {status}", answered=status == 500 or reason in UNSURE)
    return DeclinedError(reason, about="place" if reason in _PLACE else "change" if reason in _CHANGE else "message")


def _seconds(given: Any) -> float:
    try:
        return max(1.0, float(given[0] if isinstance(given, list) else given))
    except (TypeError, ValueError):
        return _RETRY_AFTER_SECONDS
