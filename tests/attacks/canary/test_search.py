"""The search for the canary can fail: in every form and in every kind of place, what is planted is found."""

import os
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import httpx
import psycopg
import pytest
from temporalio.client import Client as TemporalClient

from tests.attacks.canary.conftest import Sown
from tests.support.canary import Canary, Seeker, Trail
from tests.support.client import Client
from tests.support.places import (
    sandbox_supervisors,
    search_containers,
    search_folder,
    search_open_files,
    search_pages,
    search_postgres,
    search_processes,
    search_sandboxes,
    search_temporal,
)
from tests.support.sandboxes import Box
from tests.support.stack import Stack

pytestmark = pytest.mark.slow

SOON = timedelta(minutes=1)
FORMS = tuple(Canary("any").forms())


def until_started(pid: int) -> None:
    """Wait until a child that was forked has become the program that it is to run."""
    while b"PLANTED" not in Path(f"/proc/{pid}/environ").read_bytes():
        pass


def whole(data: bytes) -> Iterator[bytes]:
    """One piece."""
    yield data


def bytewise(data: bytes) -> Iterator[bytes]:
    """A piece for each byte."""
    yield from (data[at : at + 1] for at in range(len(data)))


def far_in(data: bytes) -> Iterator[bytes]:
    """Across the border of two windows of the search."""
    yield b"x" * ((1 << 20) - len(data) // 2)
    yield data + b"x" * (1 << 20)


def compressed(data: bytes) -> Iterator[bytes]:
    """As gzip, cut anywhere."""
    packed = zlib.compress(b"x" * 5000 + data, wbits=31)
    yield packed[:9]
    yield packed[9:]


def checkpoint(data: bytes) -> Iterator[bytes]:
    """As checkpoints are kept: in pieces, each compressed by itself."""
    half = len(data) // 2
    yield zlib.compress(b"x" * 999 + data[:half], 1)
    yield zlib.compress(data[half:] + b"x" * 999, 1)


@pytest.mark.parametrize("cut", [whole, bytewise, far_in, compressed, checkpoint], ids=lambda cut: cut.__name__)
@pytest.mark.parametrize("form", FORMS)
def test_a_form_is_found_however_it_is_cut(form: str, cut: Callable[[bytes], Iterator[bytes]]) -> None:
    secret = Canary("planted")
    seeker = Seeker(secret, Canary("not planted"))
    trail = Trail(seeker, "here")
    for piece in cut(secret.forms()[form]):
        trail.feed(piece)
    trail.finish()
    assert {each.secret for each in seeker.sightings} == {"planted"}
    with pytest.raises(AssertionError, match="here") as failed:
        seeker.verdict()
    assert not any(half in str(failed.value) for half in (secret.value[:24], secret.value[-24:]))


def test_a_form_is_found_after_repeated_escaping() -> None:
    secret = Canary("planted")
    seeker = Seeker(secret)
    escaped = secret.forms()["json of every character"]
    for _ in range(4):
        escaped = escaped.replace(b"\\", b"\\\\")
    seeker.look("here", b'"' + escaped + b'"')
    assert seeker.sightings


def test_what_is_no_secret_is_not_found() -> None:
    seeker = Seeker(Canary("ours"))
    for form in Canary("another's").forms().values():
        seeker.look("here", form)
    seeker.verdict()


async def test_tables_are_searched(sown: Sown, database_url: str) -> None:
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
        await connection.execute("CREATE TABLE planted (texts text[], note jsonb)")
        await connection.execute("INSERT INTO planted (texts) VALUES (%s)", ([sown.text],))
        await connection.execute("INSERT INTO planted (note) VALUES (to_jsonb(%s::text))", (sown.text,))
    await search_postgres(sown.seeker, database_url)
    sown.all_found("table ", "planted.texts")
    sown.all_found("table ", "planted.note")


async def test_checkpoints_are_searched_across_their_pieces(sown: Sown, database_url: str) -> None:
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
        await connection.execute("SET session_replication_role = replica")  # without the session that it belongs to
        size = 50
        pieces = [sown.data[at : at + size] for at in range(0, len(sown.data), size)]
        for ordinal, piece in reversed(list(enumerate(pieces))):
            await connection.execute(
                "INSERT INTO checkpoint_chunks (checkpoint_id, folder, ordinal, workspace_id, content)"
                " VALUES ('ckpt_a', '/workspace', %s, 'wrkspc_default', %s)",
                (ordinal, zlib.compress(piece, 1)),
            )
    await search_postgres(sown.seeker, database_url)
    sown.all_found("table ", "checkpoint_chunks.content, inflated")


async def test_histories_and_activities_are_searched(sown: Sown, temporal_address: str) -> None:
    client = await TemporalClient.connect(temporal_address)
    queue = f"nobody-{uuid4()}"
    history = await client.start_workflow("Nothing", sown.text, id=f"planted-{uuid4()}", task_queue=queue)
    activity = await client.start_activity(
        "nothing", sown.text, id=f"planted-{uuid4()}", task_queue=queue, schedule_to_close_timeout=SOON
    )
    await search_temporal(sown.seeker, temporal_address)
    sown.all_found("workflow ", history.id)
    sown.all_found("activity ", activity.id)
    await history.terminate()
    await activity.terminate()


def test_files_their_names_and_those_without_a_name_are_searched(sown: Sown, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "log").write_bytes(sown.data)
    (tmp_path / "a" / "log.gz").write_bytes(zlib.compress(sown.data, wbits=31))
    search_folder(sown.seeker, "file", tmp_path)
    sown.all_found("file a/log")
    sown.all_found("file a/log.gz, inflated")
    secret = Canary("in a name", special="")
    (tmp_path / secret.value).touch()
    named = Seeker(secret)
    search_folder(named, "file", tmp_path)
    assert {each.place.partition(" ")[0] for each in named.sightings} == {"name"}
    again = sown.anew()
    with tempfile.TemporaryFile() as spool:
        spool.write(again.data)
        spool.flush()
        search_open_files(again.seeker, [os.getpid()])
    again.all_found("open file ")


def test_environments_and_arguments_are_searched(sown: Sown) -> None:
    waits = [sys.executable, "-c", "input()", sown.text]
    with subprocess.Popen(waits, env={"PLANTED": sown.text}, stdin=subprocess.PIPE) as process:
        until_started(process.pid)
        search_processes(sown.seeker)
        process.communicate(b"\n")
    sown.all_found(f"process {process.pid} environ")
    sown.all_found(f"process {process.pid} cmdline")


async def test_sandboxes_are_searched(sown: Sown, box: Box, tmp_path: Path) -> None:
    if box.provider.name == "kubernetes":
        pytest.skip("the search looks into sandboxes of this host, and a pod may be on any node")
    for path in ("/workspace/a/b", "/tmp/c", "/home/agent/d"):
        await box.run(f"mkdir -p {Path(path).parent}")
        await box.write(path, sown.data)
    running = await box.run("sleep 60 & while ! pidof sleep; do :; done", env={"PLANTED": sown.text})
    assert running.exit_code == 0, running
    search_processes(sown.seeker)
    sown.all_found("process ", " environ")
    if supervisors := sandbox_supervisors(tmp_path):
        search_sandboxes(sown.seeker, supervisors)
    else:
        search_containers(sown.seeker, f"test{os.getpid()}")
    for path in ("/workspace/a/b", "/tmp/c", "/home/agent/d"):
        sown.all_found(f"sandbox {box.sandbox_id} {path}")


@pytest.mark.docker
def test_what_a_container_logs_and_is_told_is_searched(sown: Sown) -> None:
    from sandbox import docker
    from tests.support.images import TEST_IMAGE
    from tests.support.sandboxes import busybox_image

    busybox_image()
    engine = docker.connect()
    installation = f"canary{os.getpid()}"
    labels = {"bulkhead.installation": installation, "bulkhead.sandbox_id": "sbx_planted"}
    command = ["sh", "-c", 'printf %s "$PLANTED"']
    made = engine.create_container(TEST_IMAGE, command, environment={"PLANTED": sown.text}, labels=labels)
    try:
        engine.start(made)
        engine.wait(made)
        search_containers(sown.seeker, installation)
    finally:
        engine.remove_container(made, force=True)
        engine.close()
    sown.all_found("container sbx_planted log")
    sown.all_found("container sbx_planted as the engine knows it")


async def test_pages_and_streams_are_searched(sown: Sown, stack: Stack) -> None:
    async with Client(stack) as client:
        session_id = await client.session(metadata={"planted": "here"})
        await client.say(session_id, sown.text)
    await search_pages(sown.seeker, stack, gateway=stack.url)
    sown.all_found(f"page /v1/sessions/{session_id}/events")
    sown.all_found(f"stream /v1/sessions/{session_id}/events/stream")


async def test_error_pages_are_kept_for_the_search(sown: Sown, tmp_path: Path) -> None:
    stack = Stack(tmp_path / "data")
    request = httpx.Request("GET", "http://127.0.0.1/")
    stack.keep_error(httpx.Response(400, content=sown.data, request=request))
    stack.keep_error(httpx.Response(200, content=b"fine", request=request))
    (kept,) = stack.errors
    sown.seeker.look("error page", kept)
    sown.all_found("error page")
