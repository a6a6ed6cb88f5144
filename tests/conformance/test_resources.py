"""What is mounted in a session, through the public SDK."""

from typing import Any

import pytest
from anthropic import AsyncAnthropic, BadRequestError, ConflictError, NotFoundError


@pytest.fixture
async def file(client: AsyncAnthropic) -> Any:
    """A fresh file."""
    return await client.beta.files.upload(file=("data.csv", b"a,b\n1,2\n", "text/csv"))


async def test_files_are_mounted_when_a_session_is_made(
    client: AsyncAnthropic, agent: Any, environment: Any, file: Any
):
    session = await client.beta.sessions.create(
        agent=agent.id,
        environment_id=environment.id,
        resources=[
            {"type": "file", "file_id": file.id},
            {"type": "file", "file_id": file.id, "mount_path": "/workspace/data.csv"},
        ],
    )
    first, second = session.resources
    assert first.id.startswith("sesrsc_")
    assert (first.type, first.file_id) == ("file", file.id)
    assert first.mount_path == f"/mnt/session/uploads/{file.id}"
    assert second.mount_path == "/workspace/data.csv"


async def test_a_resource_is_added_shown_and_taken_away(client: AsyncAnthropic, session: Any, file: Any):
    added = await client.beta.sessions.resources.add(session.id, type="file", file_id=file.id)
    assert await client.beta.sessions.resources.retrieve(added.id, session_id=session.id) == added
    assert (await client.beta.sessions.retrieve(session.id)).resources == [added]
    deleted = await client.beta.sessions.resources.delete(added.id, session_id=session.id)
    assert (deleted.id, deleted.type) == (added.id, "session_resource_deleted")
    assert [r async for r in client.beta.sessions.resources.list(session.id)] == []


async def test_resources_are_listed_in_order_and_in_pages(client: AsyncAnthropic, session: Any, file: Any):
    added = [
        await client.beta.sessions.resources.add(
            session.id, type="file", file_id=file.id, mount_path=f"/workspace/{number}"
        )
        for number in range(5)
    ]
    paged = [r.id async for r in client.beta.sessions.resources.list(session.id, limit=2)]
    whole = await client.beta.sessions.resources.list(session.id)
    assert paged == [r.id for r in whole.data] == [r.id for r in added]
    assert whole.next_page is None


@pytest.mark.parametrize(
    "path",
    ["relative", "/etc/passwd", "/workspace/../etc/passwd", "/workspace/", "/workspace//x", "/workspace/./x", ""],
)
async def test_a_path_outside_of_the_sandbox_roots_is_refused(
    client: AsyncAnthropic, session: Any, file: Any, path: str
):
    with pytest.raises(BadRequestError) as caught:
        await client.beta.sessions.resources.add(session.id, type="file", file_id=file.id, mount_path=path)
    assert caught.value.body["error"]["field"] == "mount_path"


async def test_two_files_cannot_have_one_path(client: AsyncAnthropic, session: Any, file: Any):
    await client.beta.sessions.resources.add(session.id, type="file", file_id=file.id)
    with pytest.raises(BadRequestError) as caught:
        await client.beta.sessions.resources.add(session.id, type="file", file_id=file.id)
    assert caught.value.error_code == "mount_path_taken"


async def test_an_unknown_file_is_not_mounted(client: AsyncAnthropic, session: Any, agent: Any, environment: Any):
    with pytest.raises(NotFoundError) as caught:
        await client.beta.sessions.resources.add(session.id, type="file", file_id="file_nobody")
    assert caught.value.body["error"]["field"] == "file_id"
    with pytest.raises(NotFoundError) as caught:
        await client.beta.sessions.create(
            agent=agent.id, environment_id=environment.id, resources=[{"type": "file", "file_id": "file_nobody"}]
        )
    assert caught.value.body["error"]["field"] == "resources.0.file_id"


async def test_a_mounted_file_is_not_deleted(client: AsyncAnthropic, session: Any, file: Any):
    await client.beta.sessions.resources.add(session.id, type="file", file_id=file.id)
    with pytest.raises(ConflictError) as caught:
        await client.beta.files.delete(file.id)
    assert caught.value.error_code == "file_in_use"
    await client.beta.sessions.archive(session.id)
    assert (await client.beta.files.delete(file.id)).id == file.id


async def test_a_file_has_no_token_to_rotate(client: AsyncAnthropic, session: Any, file: Any):
    added = await client.beta.sessions.resources.add(session.id, type="file", file_id=file.id)
    with pytest.raises(BadRequestError) as caught:
        await client.beta.sessions.resources.update(added.id, session_id=session.id, authorization_token="t")
    assert caught.value.error_code == "not_supported"


@pytest.mark.parametrize("verb", ["retrieve", "delete"])
async def test_an_unknown_resource_is_not_found(client: AsyncAnthropic, session: Any, verb: str):
    with pytest.raises(NotFoundError) as caught:
        await getattr(client.beta.sessions.resources, verb)("sesrsc_nobody", session_id=session.id)
    assert caught.value.error_code == "resource_not_found"


async def test_a_resource_of_another_session_is_not_found(
    client: AsyncAnthropic, session: Any, agent: Any, environment: Any, file: Any
):
    added = await client.beta.sessions.resources.add(session.id, type="file", file_id=file.id)
    other = await client.beta.sessions.create(agent=agent.id, environment_id=environment.id)
    with pytest.raises(NotFoundError):
        await client.beta.sessions.resources.retrieve(added.id, session_id=other.id)
