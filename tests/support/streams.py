"""A stand-in of ours for Slack's streaming methods, which the emulator lacks; it misbehaves on request.

Shaped after slack_sdk's ``chat_startStream``, ``chat_appendStream`` and ``chat_stopStream``; what a stream says
stands in the emulator, as a message without metadata.
"""

from typing import Any

from tests.support.emulator import BOT_TOKEN
from tests.support.slack import Relay

METHODS = ("chat.startStream", "chat.appendStream", "chat.stopStream")
_ENDED = {"ok": False, "error": "message_not_in_streaming_state"}


class StreamStub:
    """The three methods. ``appends``: after so many a stream is dead, as Slack's are after five minutes."""

    def __init__(self, relay: Relay):
        self._relay = relay
        self.appends = 1_000
        self._open: dict[str, str] = {}
        self.said: list[tuple[str, str]] = []

    def __enter__(self) -> "StreamStub":
        self._relay.stubs |= dict(zip(METHODS, (self._start, self._append, self._stop), strict=True))
        return self

    def __exit__(self, *_: object) -> None:
        for method in METHODS:
            del self._relay.stubs[method]

    async def _start(self, given: dict[str, Any]) -> dict[str, Any]:
        missing = [each for each in ("channel", "thread_ts") if not given.get(each)]
        if not given["channel"].startswith("D"):
            missing += [each for each in ("recipient_user_id", "recipient_team_id") if not given.get(each)]
        if missing:
            return {"ok": False, "error": "missing_recipient_user_id" if "channel" not in missing else "bad_request"}
        message = {"channel": given["channel"], "thread_ts": given["thread_ts"], "text": given["markdown_text"]}
        ts = (await self._emulator("chat.postMessage", message))["ts"]
        self._open[ts] = given["markdown_text"]
        self.said.append(("start", given["markdown_text"]))
        return {"ok": True, "channel": given["channel"], "ts": ts}

    async def _append(self, given: dict[str, Any]) -> dict[str, Any]:
        ts = given["ts"]
        self.appends -= 1
        if self.appends < 0:
            self._open.pop(ts, None)
        if ts not in self._open:
            return _ENDED
        self._open[ts] += given["markdown_text"]
        await self._emulator("chat.update", {"channel": given["channel"], "ts": ts, "text": self._open[ts]})
        self.said.append(("append", given["markdown_text"]))
        return {"ok": True, "channel": given["channel"], "ts": ts}

    async def _stop(self, given: dict[str, Any]) -> dict[str, Any]:
        if self._open.pop(given["ts"], None) is None:
            return _ENDED
        self.said.append(("stop", ""))
        return {"ok": True, "channel": given["channel"], "ts": given["ts"]}

    async def _emulator(self, method: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = await self._relay.ask(method, body, token=BOT_TOKEN)
        assert answer["ok"], answer
        return answer
