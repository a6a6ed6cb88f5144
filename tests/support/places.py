"""Every place in which a control plane and its sandboxes could leave a secret, each looked at with a `Seeker`."""

import asyncio
import json
import os
import socket
import stat
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psycopg
import zstandard
from docker import APIClient
from docker.errors import NotFound
from psycopg import sql
from temporalio.api.workflowservice.v1 import DescribeActivityExecutionRequest
from temporalio.client import Client as TemporalClient

from sandbox import docker
from tests.support.canary import Seeker, Trail
from tests.support.stack import Stack

_READ_BYTES = 4 << 20
_AT_ONCE = 8
_NO_TEXT = ("N", "B", "D", "T")  # Postgres's categories of numbers, booleans, dates and intervals
_LISTED = "100"
_VERBATIM = ("/request", "/response")  # what was said to a model and what it said, which may be no JSON
_KERNELS = frozenset({"proc", "sysfs", "cgroup", "cgroup2", "devpts", "mqueue"})

_TABLES = """
SELECT n.nspname, c.relname, c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'm') AND n.nspname <> 'pg_toast' ORDER BY 1, 2
"""
_COLUMNS = """
SELECT a.attname, t.typname = 'bytea', coalesce(a.attnum = ANY (i.indkey), false)
  FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
  LEFT JOIN pg_index i ON i.indrelid = a.attrelid AND i.indisprimary
 WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped
   AND (t.typcategory <> ALL (%s) OR a.attnum = ANY (i.indkey))
 ORDER BY array_position(i.indkey::int2[], a.attnum), a.attnum
"""


async def search(stack: Stack, seeker: Seeker, *, pages: bool = True) -> None:
    """Look everywhere on a running stack. ``pages``: also through its API."""
    pids = stack.parts()
    environment = environment_of(pids["api"])
    search_processes(seeker)
    search_folder(seeker, "file", stack.data_dir)
    search_file(seeker, f"log {stack.output.name}", stack.output)
    for body in stack.errors:
        seeker.look("error page", body)
    supervisors = sandbox_supervisors(stack.data_dir)
    search_sandboxes(seeker, supervisors)
    search_open_files(seeker, [*pids.values(), stack.pid])
    search_containers(seeker, environment["BULKHEAD_WORKER_NAME"])
    await search_postgres(seeker, environment["BULKHEAD_DATABASE_URL"])
    await search_temporal(seeker, environment["BULKHEAD_TEMPORAL_ADDRESS"])
    if pages:
        await search_pages(seeker, stack, gateway=f"http://127.0.0.1:{environment['BULKHEAD_GATEWAY_PORT']}")


def environment_of(pid: int) -> dict[str, str]:
    """Return the environment that a process was started with."""
    pairs = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return dict(pair.decode(errors="replace").split("=", 1) for pair in pairs if b"=" in pair)


def search_processes(seeker: Seeker) -> None:
    """Look at what every process of the machine was started with: a superset of the stack's and the sandboxes'."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            for what in ("environ", "cmdline"):
                with suppress(OSError):
                    seeker.look(f"process {folder.name} {what}", (folder / what).read_bytes())


def search_open_files(seeker: Seeker, pids: list[int]) -> None:
    """Look at files that processes hold open and that have no name any more: spools, memory files."""
    for pid in pids:
        with suppress(OSError):
            for link in Path(f"/proc/{pid}/fd").iterdir():
                with suppress(OSError):
                    found = link.stat()
                    if stat.S_ISREG(found.st_mode) and found.st_nlink == 0:
                        search_file(seeker, f"open file {link}", link)


def search_folder(seeker: Seeker, kind: str, root: Path) -> None:
    """Look at every file under a folder that was changed since the secret was made, and at its name."""
    for path in _files(root, since=seeker.since, skip=frozenset()):
        search_file(seeker, f"{kind} {path.relative_to(root)}", path)


def search_file(seeker: Seeker, place: str, path: Path) -> None:
    """Look at a file; one that has just gone is none, and one that is mounted in many sandboxes is one."""
    seeker.look(f"name of {place}", os.fsencode(path))
    with suppress(OSError), path.open("rb", buffering=0) as file:
        found = os.fstat(file.fileno())
        if seeker.is_known((found.st_dev, found.st_ino, found.st_ctime_ns, found.st_size)):
            return
        trail = Trail(seeker, place)
        while data := file.read(_READ_BYTES):
            trail.feed(data)
        trail.finish()


def sandbox_supervisors(data_dir: Path) -> dict[str, int]:
    """Return the process id, as the host sees it, of each live namespace sandbox's first process."""
    found: dict[str, int] = {}
    for path in data_dir.glob("sandboxes/*/socket"):
        descriptor = os.open(path.parent, os.O_PATH)
        with suppress(OSError), socket.socket(socket.AF_UNIX) as asking:
            asking.connect(f"/proc/self/fd/{descriptor}/socket")
            credentials = asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            found[path.parent.name] = struct.unpack("3i", credentials)[0]
        os.close(descriptor)
    return found


def search_sandboxes(seeker: Seeker, supervisors: dict[str, int]) -> None:
    """Look at the files in live sandboxes, as their processes see them."""
    for sandbox_id, pid in supervisors.items():
        root = Path(f"/proc/{pid}/root")
        for path in _files(root, since=seeker.since, skip=_of_the_host(root)):
            search_file(seeker, f"sandbox {sandbox_id} /{path.relative_to(root)}", path)
        search_open_files(seeker, _same_pid_namespace(pid))


def search_containers(seeker: Seeker, installation: str) -> None:
    """Look at what the Docker engine knows of this installation's containers, at their logs, and into them."""
    try:
        engine = docker.connect()
    except Exception:  # noqa: BLE001 - no engine, no containers
        return
    try:
        found = engine.containers(all=True, filters={"label": [f"bulkhead.installation={installation}"]})
        for each in found:
            with suppress(NotFound):  # it ended meanwhile
                _search_container(seeker, engine, each["Id"])
    finally:
        engine.close()


def _search_container(seeker: Seeker, engine: APIClient, container_id: str) -> None:
    known = engine.inspect_container(container_id)
    name = known["Config"]["Labels"]["bulkhead.sandbox_id"]
    seeker.look(f"container {name} as the engine knows it", json.dumps(known).encode())
    if known["HostConfig"]["LogConfig"]["Type"] != "none":
        seeker.look(f"container {name} log", engine.logs(container_id))
    if pid := known["State"]["Pid"]:
        _search_mounts(seeker, name, pid)


def _search_mounts(seeker: Seeker, name: str, pid: int) -> None:
    """Look at what a container may write to; its root is the image, which is large, and nobody can change it."""
    for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines():
        mount, _, filesystem = line.partition(" - ")
        point, options = mount.split()[4:6]
        if "rw" not in options.split(",") or filesystem.split()[0] in _KERNELS:
            continue
        place = Path(f"/proc/{pid}/root{point}")
        if place.is_file():
            search_file(seeker, f"sandbox {name} {point}", place)
        for path in _files(place, since=seeker.since, skip=frozenset()):
            search_file(seeker, f"sandbox {name} {point}/{path.relative_to(place)}", path)
    search_open_files(seeker, _same_pid_namespace(pid))


async def search_postgres(seeker: Seeker, url: str) -> None:
    """Look at every row of every table of every database of a server, the system's own tables too."""
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        found = await connection.execute("SELECT datname FROM pg_database WHERE datallowconn")
        names = [name for (name,) in await found.fetchall()]
        running = await connection.execute("SELECT query FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
        for (query,) in await running.fetchall():
            seeker.look("table pg_stat_activity", (query or "").encode())
    for name in names:
        async with await psycopg.AsyncConnection.connect(url, dbname=name) as connection:
            tables = await (await connection.execute(_TABLES)).fetchall()
            for schema, table, oid in tables:
                await _search_table(
                    seeker, connection, f"{name}.{schema}.{table}", sql.Identifier(schema, table), oid
                )


async def _search_table(
    seeker: Seeker, connection: psycopg.AsyncConnection[Any], name: str, table: sql.Identifier, oid: int
) -> None:
    columns = await (await connection.execute(_COLUMNS, (oid, list(_NO_TEXT)))).fetchall()
    if not columns:
        return
    shown = [
        sql.Identifier(column) if is_bytes else sql.SQL("convert_to({}::text, 'UTF8')").format(sql.Identifier(column))
        for column, is_bytes, _ in columns
    ]
    order = [sql.Identifier(column) for column, _, is_key in columns if is_key]
    query = sql.SQL("SELECT {} FROM {}").format(sql.SQL(", ").join(shown), table)
    if order:
        query += sql.SQL(" ORDER BY {}").format(sql.SQL(", ").join(order))
    places = [f"table {name}.{column}" for column, _, _ in columns]
    trails = [Trail(seeker, place) for place in places]
    async with connection.cursor("canary", binary=True) as cursor:
        cursor.itersize = 500
        await cursor.execute(query)
        async for row in cursor:
            for place, trail, value in zip(places, trails, row, strict=True):
                if value:
                    trail.feed(value)
                    if value.startswith(zstandard.FRAME_HEADER):
                        seeker.look(f"{place}, unpacked", zstandard.decompress(value))
    for trail in trails:
        trail.finish()


async def search_temporal(seeker: Seeker, address: str) -> None:
    """Look at the history of every workflow and at what is kept of every standalone activity."""
    client = await TemporalClient.connect(address)
    workflows = [each async for each in client.list_workflows()]
    activities = [each async for each in client.list_activities("")]

    async def workflow(workflow_id: str, run_id: str | None) -> None:
        handle = client.get_workflow_handle(workflow_id, run_id=run_id)
        async for event in handle.fetch_history_events():
            seeker.look(f"workflow {workflow_id}", event.SerializeToString())

    async def activity(activity_id: str, run_id: str | None) -> None:
        asked = DescribeActivityExecutionRequest(
            namespace=client.namespace,
            activity_id=activity_id,
            run_id=run_id or "",
            include_input=True,
            include_outcome=True,
        )
        kept = await client.workflow_service.describe_activity_execution(asked)
        seeker.look(f"activity {activity_id}", kept.SerializeToString())

    await _some_at_once([workflow(each.id, each.run_id) for each in workflows])
    await _some_at_once([activity(each.activity_id, each.activity_run_id) for each in activities])


async def search_pages(seeker: Seeker, stack: Stack, *, gateway: str) -> None:
    """Look at every answer to every GET that the API's own description names, and at pages that are none of it."""
    async with httpx.AsyncClient(
        base_url=stack.url, headers={"x-api-key": stack.api_key}, timeout=30, trust_env=False
    ) as http:
        for page in (
            "/docs",
            "/openapi.json",
            "/nowhere",
            "/v1/nowhere",
            f"{gateway}/v1/routes",
            f"{gateway}/healthz",
        ):
            seeker.look(f"page {page}", _whole(await http.get(page)))
        paths: dict[str, Any] = (await http.get("/openapi.json")).json()["paths"]
        gets = sorted(path for path, operations in paths.items() if "get" in operations)
        for template in gets:
            targets = [target async for target in _filled(http, template)]
            await _some_at_once([_search_page(seeker, http, target) for target in targets])


async def _filled(http: httpx.AsyncClient, template: str) -> AsyncIterator[str]:
    """Yield a path for each thing that there is in the collection before each of its parameters."""
    collection, opening, rest = template.partition("/{")
    if not opening:
        yield template
        return
    async for item in _items(http, collection):
        async for target in _filled(http, f"{collection}/{item['id']}{rest.partition('}')[2]}"):
            yield target


async def _items(http: httpx.AsyncClient, collection: str) -> AsyncIterator[dict[str, Any]]:
    async for answer in _all_pages(http, collection):
        for item in answer.json().get("data", []):
            yield item


async def _all_pages(http: httpx.AsyncClient, path: str) -> AsyncIterator[httpx.Response]:
    page: str | None = None
    while True:
        parameters = {"limit": _LISTED, "include_archived": "true", **({"page": page} if page else {})}
        answer = await http.get(path, params=parameters)
        yield answer
        if "json" not in answer.headers.get("content-type", "") or path.endswith(_VERBATIM):
            return
        if not (page := answer.json().get("next_page")):
            return


async def _search_page(seeker: Seeker, http: httpx.AsyncClient, target: str) -> None:
    if target.endswith("/stream"):
        await _search_stream(seeker, http, target)
        return
    async for answer in _all_pages(http, target):
        seeker.look(f"page {target}", _whole(answer))


async def _search_stream(seeker: Seeker, http: httpx.AsyncClient, target: str) -> None:
    """Replay a session's events up to the last one that is recorded by now."""
    newest = await http.get(target.removesuffix("/stream"), params={"order": "desc", "limit": "1"})
    events = newest.json().get("data", [])
    trail = Trail(seeker, f"stream {target}")
    async with http.stream("GET", target, headers={"Last-Event-ID": "0"}) as answer:
        if events:
            ending = b""
            async for data in answer.aiter_bytes():
                trail.feed(data)
                ending = (ending + data)[-(2 * len(data) + 200) :]
                if events[0]["id"].encode() in ending:
                    break
    trail.finish()


def _whole(answer: httpx.Response) -> bytes:
    return b"\n".join([*(name + b": " + value for name, value in answer.headers.raw), answer.content])


def _files(root: Path, *, since: float, skip: frozenset[str]) -> Iterator[Path]:
    """Yield what was changed since; nobody can set back the time at which a file was changed."""
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if os.path.join(folder, name) not in skip]  # noqa: PTH118
        for name in files:
            path = Path(folder, name)
            with suppress(OSError):
                found = path.lstat()
                if stat.S_ISREG(found.st_mode) and found.st_ctime >= since:
                    yield path


def _of_the_host(root: Path) -> frozenset[str]:
    """Return the folders in a sandbox's root that are the kernel's, or the host's own."""
    found = {str(root / "proc"), str(root / "sys")}
    with suppress(OSError):
        for path in root.iterdir():
            with suppress(OSError):
                if path.lstat().st_ino == (host := Path("/", path.name).lstat()).st_ino:
                    found |= {str(path)} if path.lstat().st_dev == host.st_dev else set()
    return frozenset(found)


def _same_pid_namespace(pid: int) -> list[int]:
    def namespace(each: Path) -> str:
        with suppress(OSError):
            return str((each / "ns/pid").readlink())
        return ""

    wanted = namespace(Path(f"/proc/{pid}"))
    return [int(each.name) for each in Path("/proc").iterdir() if each.name.isdigit() and namespace(each) == wanted]


async def _some_at_once(looks: list[Any]) -> None:
    slots = asyncio.Semaphore(_AT_ONCE)

    async def one(look: Any) -> None:
        async with slots:
            await look

    await asyncio.gather(*(one(look) for look in looks))
