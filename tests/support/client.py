"""A client of a running stack, for tests that drive sessions."""

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from harness_adapters.contract import HarnessName
from tests.support.stack import Stack
from tests.support.watch import Watcher


def script(*steps: dict[str, Any]) -> str:
    """A message that makes the scripted model take these steps."""
    return f"```script\n{json.dumps(steps)}\n```"


def run(command: str, **more: Any) -> dict[str, Any]:
    """A step that runs one command."""
    return {"tools": [{"name": "sandbox_execute", "input": {"command": command, **more}}]}


def text(event: dict[str, Any]) -> str:
    """What an event's content says."""
    return "".join(block["text"] for block in event["content"])


class Client:
    """Makes sessions of scripted agents and sends messages to them."""

    def __init__(self, stack: Stack):
        self.stack = stack
        self.http = httpx.AsyncClient(
            base_url=stack.url,
            headers={"x-api-key": stack.api_key},
            timeout=20,
            event_hooks={"response": [self._keep_error]},
        )

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.http.aclose()

    async def _keep_error(self, answer: httpx.Response) -> None:
        await answer.aread() if answer.is_error else None
        self.stack.keep_error(answer)

    async def post(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """POST and return the answer, which must be a success."""
        response = await self.http.post(path, json=body)
        assert response.is_success, response.text
        return response.json()

    async def refused(self, path: str, body: dict[str, Any] | None = None, *, method: str = "POST") -> httpx.Response:
        """Ask and return the answer, which must be a refusal."""
        response = await self.http.request(method, path, json=body)
        assert 400 <= response.status_code < 500, response.text
        return response

    async def get(self, path: str, **parameters: str) -> dict[str, Any]:
        """GET and return the answer, which must be a success."""
        response = await self.http.get(path, params=parameters)
        assert response.is_success, response.text
        return response.json()

    async def delete(self, path: str) -> dict[str, Any]:
        """DELETE and return the answer, which must be a success."""
        response = await self.http.delete(path)
        assert response.is_success, response.text
        return response.json()

    async def upload(self, name: str, content: bytes) -> str:
        """Upload a file and return its id."""
        response = await self.http.post("/v1/files", files={"file": (name, content, "text/plain")})
        assert response.is_success, response.text
        return response.json()["id"]

    async def session(
        self,
        *,
        model: str = "scripted/test",
        harness: HarnessName = "builtin",
        tools: list[dict[str, Any]] | None = None,
        config: dict[str, Any] | None = None,
        **more: Any,
    ) -> str:
        """Open a session and return its id."""
        wanted = {"name": "a", "model": model, "tools": tools or [], "harness": harness}
        agent = await self.post("/v1/agents", wanted)
        environment = await self.post(
            "/v1/environments", {"name": "e", "config": {"type": "cloud", **(config or {})}}
        )
        made = {
            "agent": agent["id"],
            "environment_id": environment["id"],
            "vault_ids": self.stack.vault_ids,
            **more,
        }
        return (await self.post("/v1/sessions", made))["id"]

    @asynccontextmanager
    async def watching(self, session_id: str) -> AsyncGenerator[Watcher]:
        """Watch a session from now on."""
        async with Watcher(self.stack.url, self.stack.api_key, session_id) as watcher:
            await watcher.until(lambda w: w.connections > 0)
            yield watcher

    async def say(self, session_id: str, *texts: str) -> list[dict[str, Any]]:
        """Send user messages in one request."""
        events = [{"type": "user.message", "content": [{"type": "text", "text": text}]} for text in texts]
        return await self.send(session_id, *events)

    async def send(self, session_id: str, *events: dict[str, Any]) -> list[dict[str, Any]]:
        """Send events in one request and return them as recorded."""
        return (await self.post(f"/v1/sessions/{session_id}/events", {"events": list(events)}))["data"]
