"""What a model is asked, word for word."""

import json
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Recorder:
    """Keeps the bodies of requests on their way to the scripted model."""

    def __init__(self, app: ASGIApp):
        self.bodies: list[dict[str, Any]] = []
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        parts: list[bytes] = []

        async def heard() -> Message:
            message = await receive()
            if message["type"] == "http.request":
                parts.append(message.get("body", b""))
                if not message.get("more_body") and parts:
                    self.bodies.append(json.loads(b"".join(parts)))
            return message

        await self._app(scope, heard, send)
