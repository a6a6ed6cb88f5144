"""What of files and memory stores a session has, and where."""

from collections.abc import Sequence

from controlplane.checks import not_supported, refused
from controlplane.errors import NotFoundError
from controlplane.ids import shown_id
from controlplane.store import files, memory_attached
from controlplane.store.memory_attached import Owners
from controlplane.store.pool import Connection
from controlplane.store.resources import FileMount, StoreMount
from controlplane.wire.sessions import MountRequest, StoreMountRequest, UnsupportedMount

_UPLOADS = "/mnt/session/uploads"
MAX_STORES = 20
"""Of one session: the prompt names each."""


async def mounts_of(
    connection: Connection,
    wanted: Sequence[MountRequest],
    owners: Owners,
    *,
    taken: Sequence[str],
    attached: Sequence[str] = (),
    field: str = "resources",
) -> list[FileMount | StoreMount]:
    """Return what is to be mounted where; raises if it is not there, or a path is ``taken``.

    ``attached``: the memory stores that the session has already.
    """
    mounts: list[FileMount | StoreMount] = []
    stores = list(attached)
    for index, request in enumerate(wanted):
        at = f"{field}.{index}." if field else ""
        if isinstance(request, UnsupportedMount):
            raise not_supported(f"{at}type", f"resources of type {request.type} are", next_step="mount files instead")
        if isinstance(request, StoreMountRequest):
            mounted = [*taken, *(mount.mount_path for mount in mounts)]
            mounts.append(await _store_mount(connection, request, owners, taken=mounted, stores=stores, at=at))
            stores.append(request.memory_store_id)
            continue
        path = request.mount_path or f"{_UPLOADS}/{request.file_id}"
        if path in taken or any(path == mount.mount_path for mount in mounts):
            raise refused(
                f"{at}mount_path",
                "another file has this path",
                code="mount_path_taken",
                next_step="choose another path",
            )
        mounts.append(FileMount(file_id=request.file_id, mount_path=path))
    await _require_files(connection, mounts, field)
    return mounts


async def _store_mount(
    connection: Connection,
    request: StoreMountRequest,
    owners: Owners,
    *,
    taken: Sequence[str],
    stores: Sequence[str],
    at: str,
) -> StoreMount:
    if request.memory_store_id in stores:
        raise refused(
            f"{at}memory_store_id",
            "the store is attached already",
            code="memory_store_attached",
            next_step="attach each store once",
        )
    if len(stores) >= MAX_STORES:
        raise refused(f"{at}memory_store_id", f"at most {MAX_STORES} memory stores")
    return await memory_attached.mount_of(
        connection,
        request.memory_store_id,
        owners,
        access=request.access,
        instructions=request.instructions,
        taken=taken,
        field=f"{at}memory_store_id",
    )


async def _require_files(connection: Connection, mounts: Sequence[FileMount | StoreMount], field: str) -> None:
    ids = [mount.file_id if isinstance(mount, FileMount) else None for mount in mounts]
    wanted = [file_id for file_id in ids if file_id is not None]
    missing = await files.missing(connection, wanted) if wanted else []
    if missing:
        index = ids.index(missing[0])
        raise NotFoundError(
            f"no file {shown_id(missing[0])!r}",
            code="file_not_found",
            field=f"{field}.{index}.file_id" if field else "file_id",
            next_step="upload the file to /v1/files first",
        )
