"""A small agent: it asks its model, has the tools called, and asks again. One process of it holds one session.

It runs where there is nothing but a Python and this file. It is told a JSON object a line: first the session, then a
prompt for each turn. It says ``call``, and is told what came of that, and ``ended`` when the turn has. Whatever goes
wrong may end it: it is started again, and told what is recorded.
"""

import json
import sys
from collections import defaultdict
from collections.abc import Iterable
from typing import Any
from urllib.request import Request, urlopen

Json = dict[str, Any]

HEADERS = {"content-type": "application/json", "anthropic-version": "2023-06-01"}
NOTHING = {"type": "text", "text": "(nothing)"}


class Session:
    """A conversation, kept as the next request for the model."""

    def __init__(self, url: str, request: Json):
        self._url = url
        self._request = request

    def turn(self, said: list[Json]) -> None:
        """Work until the model asks for no more tools; where nothing is said, go on from what they came to."""
        while True:
            if said:
                self._request["messages"].append({"role": "user", "content": said})
            answer = self._ask()
            self._request["messages"].append({"role": "assistant", "content": answer})
            said = [_result(block) for block in answer if block["type"] == "tool_use"]
            if not said:
                return

    def _ask(self) -> list[Json]:
        request = Request(self._url, json.dumps(self._request).encode(), HEADERS)  # noqa: S310 -- it is on loopback
        with urlopen(request) as stream:  # noqa: S310 -- as above
            return _answer(json.loads(line[5:]) for line in stream if line.startswith(b"data:"))


def _answer(events: Iterable[Json]) -> list[Json]:
    """Put a streamed answer together; what a block's deltas hold has the name that it has in the whole block."""
    blocks, pieces = list[Json](), defaultdict[tuple[int, str], list[str]](list)
    for event in events:
        if event["type"] == "content_block_start":
            blocks.append(event["content_block"])
        elif event["type"] == "content_block_delta":
            for name, piece in event["delta"].items():
                pieces[event["index"], name].append(piece)
    for (index, name), found in pieces.items():
        if name == "partial_json":
            blocks[index]["input"] = json.loads("".join(found) or "{}")
        elif name != "type":
            blocks[index][name] = "".join(found)
    return [block for block in blocks if block.get("text") != ""] or [NOTHING]


def _result(use: Json) -> Json:
    _say({"call": use["id"], "name": use["name"], "input": use["input"]})
    return {"type": "tool_result", "tool_use_id": use["id"], **json.loads(sys.stdin.buffer.readline())}


def _say(message: Json) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Take turns for as long as somebody speaks."""
    session = Session(**json.loads(sys.stdin.buffer.readline()))
    while line := sys.stdin.buffer.readline():
        session.turn(json.loads(line)["said"])
        _say({"ended": True})


if __name__ == "__main__":
    main()
