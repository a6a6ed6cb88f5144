"""What an agent leaves in /mnt/session/outputs is kept as the session's files when its turn ends."""

import asyncio
import os
import signal
from typing import Any

import httpx
import pytest

from tests.support.client import Client, run, script

FOLDER = "/mnt/session/outputs"


async def left(client: Client, session_id: str, command: str, *, times: int = 1) -> dict[str, Any]:
    """Run a command as a turn of its own, and return what the turn's end says of the outputs."""
    async with client.watching(session_id) as watcher:
        await client.say(session_id, script(run(command), {"text": "done"}))
        await watcher.until_idle(times=times)
        return watcher.of("session.status_idle")[-1].get("outputs", {})


async def content(client: Client, file_id: str) -> bytes:
    async with httpx.AsyncClient(
        base_url=client.stack.url, headers={"x-api-key": client.stack.api_key}, timeout=20
    ) as http:
        return (await http.get(f"/v1/files/{file_id}/content")).content


async def test_a_turns_end_keeps_what_is_new_and_what_has_changed(client: Client) -> None:
    session_id = await client.session()
    first = await left(client, session_id, f"cd {FOLDER}; mkdir -p a; printf 1 > a/n; printf x > m; ln -s m link")
    assert [each["path"] for each in first["files"]] == ["a/n", "m"]
    second = await left(client, session_id, f"printf 2 > {FOLDER}/a/n; touch {FOLDER}/m", times=2)
    assert [each["path"] for each in second["files"]] == ["a/n"]
    assert await left(client, session_id, "true", times=3) == {}
    listed = (await client.get("/v1/files", scope_id=session_id))["data"]
    assert sorted(each["filename"] for each in listed) == ["m", "n", "n"]
    assert {each["scope"]["id"] for each in listed} == {session_id}
    assert [await content(client, each["file_id"]) for each in first["files"]] == [b"1", b"x"]
    assert await content(client, second["files"][0]["file_id"]) == b"2"
    await client.delete(f"/v1/sessions/{session_id}")
    assert (await client.get("/v1/files", scope_id=session_id))["data"] == []


async def test_what_has_no_room_is_named_and_comes_later(client: Client) -> None:
    session_id = await client.session()
    many = f"cd {FOLDER}; for n in $(seq 10 22); do echo $n > $n; done; truncate -s 21M large"
    found = await left(client, session_id, many)
    assert [each["path"] for each in found["files"]] == [str(n) for n in range(10, 20)]
    assert found["left_out"] == [
        *({"path": str(n), "reason": "later"} for n in (20, 21, 22)),
        {"path": "large", "reason": "too_large"},
    ]
    async with client.watching(session_id) as watcher:
        await client.say(session_id, script({"text": "no command"}))
        await watcher.until_idle(times=2)
        rest = watcher.of("session.status_idle")[-1]["outputs"]
    assert [each["path"] for each in rest["files"]] == ["20", "21", "22"]
    assert "left_out" not in rest


@pytest.mark.slow
async def test_no_link_is_followed(client: Client) -> None:
    session_id = await client.session()
    moved = f"cd /; mkdir /tmp/other; echo x > /tmp/other/x; rmdir {FOLDER} && ln -s /tmp/other {FOLDER}; ls {FOLDER}"
    assert await left(client, session_id, moved) == {}


@pytest.mark.slow
async def test_a_folder_that_is_too_large_to_list_is_told(client: Client) -> None:
    session_id = await client.session()
    many = f"cd {FOLDER}; mkdir many; cd many; seq 1 10001 | xargs touch; echo x > ../beside"
    found = await left(client, session_id, many)
    assert [each["path"] for each in found["files"]] == ["beside"]
    assert found["left_out"] == [{"path": "…", "reason": "too_many_entries"}]


@pytest.mark.slow
@pytest.mark.parametrize("part", ["sandboxes", "brain", "temporal"])
async def test_whatever_dies_at_the_end_of_a_turn_files_are_kept_once(client: Client, part: str) -> None:
    session_id = await client.session()
    write = f"cd {FOLDER}; for n in 0 1 2 3 4; do head -c 15000000 /dev/urandom > $n; done"
    async with client.watching(session_id) as watcher:
        await client.say(session_id, script(run(write), {"text": "done"}))
        await watcher.until(lambda w: bool(w.of("agent.message")))
        for _ in range(2):
            os.kill(client.stack.parts()[part], signal.SIGKILL)
            await asyncio.sleep(0.3)
            await client.stack.ready_again()
        await watcher.until_idle(timeout_seconds=100)
        await client.say(session_id, script(run("true"), {"text": "and again"}))
        await watcher.until_idle(times=2, timeout_seconds=100)
        ends = [end.get("outputs", {}) for end in watcher.of("session.status_idle")]
    told = [each["path"] for end in ends for each in end.get("files", [])]
    assert sorted(told) == ["0", "1", "2", "3", "4"], ends
    listed = (await client.get("/v1/files", scope_id=session_id))["data"]
    assert len(listed) == 5
