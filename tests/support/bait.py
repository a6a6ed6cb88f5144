"""A control plane with a canary in its vault and one for its provider key, both used, and looked for at the end."""

import asyncio
import base64
import json
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from controlplane.models.listening import listening
from tests.support.canary import Canary, Seeker
from tests.support.client import Client, run, script
from tests.support.egress import Behaviour, Received, RootAuthority, TestHost, answer, raw_answer
from tests.support.places import search, search_file
from tests.support.stack import Stack
from tests.support.watch import Watcher

HOST = "echo.canary.test"
TOKEN = "CANARY_TOKEN"
REFUSED_MODEL = "claude-that-quotes-its-key"

USE_IT = (
    "python3 -c 'import os, urllib.request as r; print(r.urlopen(r.Request("
    f'"https://{HOST}/json", headers={{"Authorization": "Bearer " + os.environ["{TOKEN}"]}})).read())\''
)


@dataclass
class Bait:
    """A running control plane and what is looked for in it."""

    stack: Stack
    secret: Canary
    key: Canary
    seeker: Seeker
    host: TestHost
    hosts: dict[str, TestHost]
    vault_id: str = ""
    credential_id: str = ""

    async def store(self, client: Client, vault_id: str, *, name: str, secret: str, **more: object) -> str:
        """Store a credential for the host and return its id."""
        auth = {
            "type": "environment_variable",
            "secret_name": name,
            "secret_value": secret,
            "networking": {"type": "limited", "allowed_hosts": [HOST]},
            **more,
        }
        return (await client.post(f"/v1/vaults/{vault_id}/credentials", {"auth": auth}))["id"]

    async def search(self) -> None:
        """Fail if anything was left, anywhere."""
        await self.stack.ready_again()
        began = time.monotonic()
        await search(self.stack, self.seeker)
        self.seeker.seconds += time.monotonic() - began
        self.seeker.verdict()


@asynccontextmanager
async def baited(
    folder: Path,
    *,
    environment: Mapping[str, str] | None = None,
    hosts: Mapping[str, tuple[bool, Behaviour]] | None = None,
) -> AsyncGenerator[Bait]:
    """Run a control plane whose sandboxes reach an echoing host, use both secrets once, and search at the end.

    ``hosts``: further ones by name, with TLS or without. The plaintext is in the memory of this process, which plays
    the customer, the host and the provider, and in no file of it.
    """
    root = RootAuthority(folder)
    secret, key = Canary("the vault"), Canary("the model provider", special='/+"&<>%!')
    async with AsyncExitStack() as open_now:
        reached: dict[str, TestHost] = {}
        for name, (tls, behaviour) in {HOST: (True, echo), **(hosts or {})}.items():
            context = root.server_context(name) if tls else None
            reached[name] = await open_now.enter_async_context(TestHost(context, behaviour))
        provider = await open_now.enter_async_context(listening(quoting_provider))
        stack = Stack(
            folder / "data",
            environment={
                "BULKHEAD_EGRESS_CA_FILE": str(root.file),
                "BULKHEAD_EGRESS_HOSTS": ",".join(f"{name}=127.0.0.1:{at.port}" for name, at in reached.items()),
                "ANTHROPIC_API_KEY": key.value,
                "ANTHROPIC_BASE_URL": provider,
                **(environment or {}),
            },
        )

        def excused(whose: str, place: str) -> bool:
            # Whoever starts `up` gives it the key in its environment, and it hands the key to the gateway alone.
            return whose == key.name and place in {
                f"process {pid} environ" for pid in (stack.pid, stack.parts()["gateway"])
            }

        seeker = Seeker(secret, key, excused=excused)
        bait = Bait(stack, secret, key, seeker, reached[HOST], reached)
        open_now.callback(stack.end)
        stack.start()
        await asyncio.to_thread(stack.wait_ready)
        await _bite(bait)
        yield bait
        await bait.search()
        await asyncio.to_thread(stack.end)
        search_file(seeker, "log after the end", stack.output)
        seeker.verdict()


async def _bite(bait: Bait) -> None:
    """Use both secrets, so that whatever comes later could have kept them."""
    async with Client(bait.stack) as client:
        bait.vault_id = (await client.post("/v1/vaults", {"display_name": "the canary's"}))["id"]
        bait.credential_id = await bait.store(client, bait.vault_id, name=TOKEN, secret=bait.secret.value)
        bait.stack.vault_ids = [bait.vault_id]
        scripted = await client.session(config={"provider": "namespace"})
        refused = await client.session(model=REFUSED_MODEL, vault_ids=[])
        for session_id, said in ((scripted, script(run(USE_IT), {"text": "{{result}}"})), (refused, "hello")):
            async with Watcher(bait.stack.url, bait.stack.api_key, session_id) as watcher:
                await client.say(session_id, said)
                await watcher.until_idle()
                if session_id == refused:
                    assert "you sent" in watcher.of("session.error")[-1]["error"]["message"], watcher.events
    sent = bait.host.received[-1].header("authorization") or ""
    assert sent.encode("latin-1") == f"Bearer {bait.secret.value}".encode(), "the secret never reached its host"


async def quoting_provider(scope: Scope, receive: Receive, send: Send) -> None:
    """A fake of a model provider that speaks Anthropic's format and refuses, quoting all that it was sent."""
    request = Request(scope, receive)
    headers = dict(request.headers)
    message = f"you sent {json.dumps(headers)}, with the key {headers.get('x-api-key')}"
    error = {"type": "error", "error": {"type": "authentication_error", "message": message}}
    quoted = {"x-you-sent": headers.get("x-api-key", ""), "request-id": headers.get("x-api-key", "")}
    await JSONResponse(error, status_code=401, headers=quoted)(scope, receive, send)


async def echo(asked: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Give the secret back in the way that the path names, as hosts do in debug pages, errors and redirects."""
    sent = (asked.header("authorization") or "").encode("latin-1")
    if not sent:
        who = answer("who are you?", status="401 Unauthorized", headers=[("WWW-Authenticate", "Basic")])
        return await who(asked, reader, writer)
    secret = sent.removeprefix(b"Bearer ")
    text = secret.decode(errors="replace")
    path = asked.target.partition("?")[0].strip("/")
    in_json = json.dumps({"you sent": text})
    bodies = {
        "json": in_json,
        "json-in-utf8": json.dumps({"you sent": text}, ensure_ascii=False),
        "json-for-html": in_json.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"),
        "json-in-json": json.dumps({"body": in_json}),
        "json-as-latin-1": json.dumps({"you sent": secret.decode("latin-1")}),
        "base64": base64.b64encode(b"you sent " + secret),
        "hex": sent.hex(),
        "url": "you=" + quote(secret, safe=""),
        "url-as-browsers-write-it": "you=" + quote(secret, safe="!'()*~"),
    }
    behaviour = answer(bodies.get(path, b"you sent " + sent))
    if path == "header":
        behaviour = raw_answer(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-You-Sent: " + sent + b"\r\n\r\n")
    elif path == "error":
        behaviour = answer(in_json, status="500 Internal Server Error")
    elif path == "reason":
        behaviour = raw_answer(b"HTTP/1.1 400 " + sent + b"\r\nContent-Length: 0\r\n\r\n")
    elif path == "redirect":
        target = f"https://other.canary.test/?token={quote(secret, safe='')}"
        behaviour = answer("", status="302 Found", headers=[("Location", target)])
    elif path == "websocket":
        head = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n\x81"
        behaviour = raw_answer(head, bytes([len(secret)]), secret[:9], secret[9:])
    elif path in {"chunked", "sse"}:
        line = b"data: you sent " + sent + b"\n\n"
        kind = b"text/event-stream" if path == "sse" else b"text/plain"
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: " + kind + b"\r\n\r\n"
        pieces = [line[at : at + 7] for at in range(0, len(line), 7)]
        behaviour = raw_answer(head, *(b"%x\r\n%b\r\n" % (len(each), each) for each in pieces), b"0\r\n\r\n")
    return await behaviour(asked, reader, writer)
