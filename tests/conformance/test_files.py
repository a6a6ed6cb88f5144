"""Files through the public SDK and through plain HTTP."""

import os
from typing import Any
from urllib.parse import unquote

import httpx
import pytest
from anthropic import AsyncAnthropic, BadRequestError, NotFoundError

from controlplane.store.files import CHUNK_BYTES


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, 3 * CHUNK_BYTES + 17])
async def test_what_was_uploaded_comes_back(client: AsyncAnthropic, size: int):
    content = os.urandom(size)
    file = await client.beta.files.upload(file=("blob.bin", content, "application/octet-stream"))
    assert file.id.startswith("file_")
    assert (file.type, file.filename, file.size_bytes) == ("file", "blob.bin", size)
    assert (file.mime_type, file.downloadable, file.scope) == ("application/octet-stream", True, None)
    assert await (await client.beta.files.download(file.id)).read() == content
    assert await client.beta.files.retrieve_metadata(file.id) == file


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\temp\\report.txt", "report.txt"),
        ("übersicht 2026.csv", "übersicht 2026.csv"),
        ("quote'd.txt", "quote'd.txt"),
        ("semi;colon.txt", "semi;colon.txt"),
        ("x" * 300 + ".txt", ("x" * 300 + ".txt")[-255:]),
    ],
)
async def test_a_filename_is_kept_without_its_folders(
    client: AsyncAnthropic, http: httpx.AsyncClient, sent: str, kept: str
):
    file = await client.beta.files.upload(file=(sent, b"x", "text/plain"))
    assert file.filename == kept
    headers = (await http.get(f"/v1/files/{file.id}/content")).headers
    assert unquote(headers["content-disposition"].partition("filename*=UTF-8''")[2]) == kept
    assert headers["content-disposition"].isascii()


async def test_a_download_says_what_it_is(client: AsyncAnthropic, http: httpx.AsyncClient):
    file = await client.beta.files.upload(file=("page.html", b"<b>hi</b>", "text/html"))
    headers = (await http.get(f"/v1/files/{file.id}/content")).headers
    assert headers["content-length"] == "9"
    assert headers["content-type"] == "text/html"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["content-disposition"].startswith("attachment")


async def test_a_type_is_guessed_from_the_name(http: httpx.AsyncClient):
    body = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.csv"\r\n\r\n1,2\r\n--b--\r\n'
    answer = await http.post("/v1/files", content=body, headers={"content-type": "multipart/form-data; boundary=b"})
    assert answer.json()["mime_type"] == "text/csv"


async def test_files_are_listed_newest_first_in_pages(client: AsyncAnthropic):
    made = [await client.beta.files.upload(file=(f"{i}.txt", b"x", "text/plain")) for i in range(3)]
    found = [file.id async for file in client.beta.files.list(limit=2)]
    assert found[:3] == [file.id for file in reversed(made)]


async def test_files_are_picked_by_id(client: AsyncAnthropic):
    made = [await client.beta.files.upload(file=(f"{i}.txt", b"x", "text/plain")) for i in range(2)]
    page = await client.beta.files.list(ids=[made[0].id, "file_nobody", made[0].id])
    assert [file.id for file in page.data] == [made[0].id]
    assert page.next_page is None


async def test_no_file_belongs_to_a_session_without_outputs(client: AsyncAnthropic, session: Any):
    assert [file async for file in client.beta.files.list(scope_id=session.id)] == []


async def test_a_deleted_file_is_gone(client: AsyncAnthropic):
    file = await client.beta.files.upload(file=("a.txt", b"x", "text/plain"))
    deleted = await client.beta.files.delete(file.id)
    assert (deleted.id, deleted.type) == (file.id, "file_deleted")
    for attempt in (
        client.beta.files.retrieve_metadata(file.id),
        client.beta.files.download(file.id),
        client.beta.files.delete(file.id),
    ):
        with pytest.raises(NotFoundError) as caught:
            await attempt
        assert caught.value.error_code == "file_not_found"


async def test_files_do_not_expire_in_this_version(client: AsyncAnthropic):
    with pytest.raises(BadRequestError) as caught:
        await client.beta.files.upload(file=("a.txt", b"x", "text/plain"), expires_in_seconds=3600)
    assert caught.value.body["error"]["field"] == "expires_in_seconds"


async def test_too_many_ids_are_refused(client: AsyncAnthropic):
    with pytest.raises(BadRequestError):
        await client.beta.files.list(ids=[f"file_{number}" for number in range(101)])


FORM = "multipart/form-data; boundary=b"


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"hello", "text/plain"),
        (b"{}", "application/json"),
        (b"", FORM),
        (b"no boundary in sight", FORM),
        (b"--b\r\n", FORM),
        (b"--b--\r\n", FORM),
        (b"x", "multipart/form-data"),
        (b'--b\r\nContent-Disposition: form-data; name="other"\r\n\r\nx\r\n--b--\r\n', FORM),
        (b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\nno filename\r\n--b--\r\n', FORM),
        (b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\ncut off', FORM),
        (b"--b\r\nX: y\r\n\r\nno disposition\r\n--b--\r\n", FORM),
        (b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n' + b"x" * 5000 + b"\r\n--b--\r\n", FORM),
    ],
)
async def test_what_is_no_upload_is_refused(http: httpx.AsyncClient, body: bytes, content_type: str):
    answer = await http.post("/v1/files", content=body, headers={"content-type": content_type})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["type"] == "invalid_request_error"


async def test_two_files_at_once_are_refused(http: httpx.AsyncClient):
    files = [("file", ("a.txt", b"1")), ("file", ("b.txt", b"2"))]
    assert (await http.post("/v1/files", files=files)).status_code == 400
