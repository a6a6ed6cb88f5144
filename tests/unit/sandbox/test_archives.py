"""Tar archives from and to a folder, without a sandbox: what comes back, and what never gets in or out."""

# Names are bytes here, which pathlib does not know.
# ruff: noqa: PTH101, PTH102, PTH115, PTH118, PTH208, PTH211

import io
import itertools
import os
import stat
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.supervisor.files import RefusedError
from sandbox.supervisor.folders import open_folder
from sandbox.supervisor.packing import Packing
from sandbox.supervisor.tar import MAX_ENTRIES, Entry, encode
from sandbox.supervisor.unpacking import Unpacking

LIMIT = 8 << 20


@contextmanager
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as path:
        yield Path(path)


def pack(path: Path, *, limit: int = LIMIT) -> tuple[bytes, dict[str, object]]:
    packing = Packing.of(str(path), max_bytes=limit)
    try:
        return b"".join(packing.pieces()), packing.receipt()
    finally:
        packing.close()


def unpack(path: Path, archive: bytes, *, limit: int = LIMIT, borders: tuple[int, ...] = ()) -> None:
    unpacking = Unpacking.into(str(path), max_bytes=limit)
    try:
        edges = [0, *sorted(min(border, len(archive)) for border in borders), len(archive)]
        for start, end in itertools.pairwise(edges):
            unpacking.feed(archive[start:end])
        for _ in unpacking.install():
            pass
    finally:
        for _ in unpacking.close():
            pass


def tree(path: Path) -> dict[bytes, tuple[object, ...]]:
    """Return everything below a folder as an archive should keep it."""
    found: dict[bytes, tuple[object, ...]] = {}
    for here, folders, files in os.walk(os.fsencode(path)):
        for name in folders + files:
            place = os.path.join(here, name)
            status = os.lstat(place)
            kind = stat.S_IFMT(status.st_mode)
            content: bytes = b""
            if kind == stat.S_IFLNK:
                content = os.readlink(place)
            elif kind == stat.S_IFREG:
                content = Path(os.fsdecode(place)).read_bytes()
            mode = 0 if kind == stat.S_IFLNK else status.st_mode & 0o777
            found[os.path.relpath(place, os.fsencode(path))] = kind, mode, int(status.st_mtime // 1), content
    return found


_name = st.binary(min_size=1, max_size=60).filter(lambda name: not {0, 47} & set(name) and name not in {b".", b".."})
_leaf = st.tuples(
    st.sampled_from(["file", "link"]), st.binary(max_size=2000), st.integers(0, 0o777), st.integers(-5, 1 << 34)
)
_trees = st.recursive(
    st.dictionaries(_name, _leaf, max_size=4),
    lambda inner: st.dictionaries(_name, inner | _leaf, max_size=4),
    max_leaves=8,
)


def plant(here: bytes, content: dict[bytes, object]) -> None:
    for name, value in content.items():
        place = here + b"/" + name
        if isinstance(value, dict):
            os.mkdir(place)
            plant(place, value)  # type: ignore[arg-type]
            continue
        kind, data, mode, modified_at = value  # type: ignore[misc]
        if kind == "link":
            os.symlink(data.replace(b"\0", b"") or b"x", place)
        else:
            Path(os.fsdecode(place)).write_bytes(data)
            os.chmod(place, mode)
        os.utime(place, (modified_at, modified_at), follow_symlinks=False)


@settings(deadline=None)
@given(content=_trees, borders=st.lists(st.integers(0, 20_000), max_size=8).map(tuple))
def test_any_tree_comes_back_the_same_whatever_the_pieces(
    content: dict[bytes, object], borders: tuple[int, ...]
) -> None:
    with folder() as source, folder() as target:
        plant(os.fsencode(source), content)
        archive, receipt = pack(source)
        assert receipt["skipped"] == []
        unpack(target, archive, borders=borders)
        assert tree(target) == tree(source)


def outside(target: Path) -> dict[bytes, tuple[object, ...]]:
    return {name: found for name, found in tree(target.parent).items() if not name.startswith(b"target")}


_FIELDS = [(0, 100), (100, 8), (124, 12), (136, 12), (148, 8), (156, 1), (157, 100), (257, 8), (345, 155)]


@settings(deadline=None, max_examples=300)
@given(
    names=st.lists(
        st.sampled_from([b"a", b"a/b", b"../x", b"/x", b"link/x", b"a/../../x", b"\xff" * 300, b""]), max_size=4
    ),
    kinds=st.lists(
        st.sampled_from([b"0", b"1", b"2", b"3", b"5", b"6", b"x", b"g", b"L", b"K", b"Z"]), min_size=4, max_size=4
    ),
    targets=st.lists(st.sampled_from([b"/etc", b"..", b"../outside", b"a"]), min_size=4, max_size=4),
    noise=st.lists(st.tuples(st.integers(0, 4000), st.binary(min_size=1, max_size=20)), max_size=3),
    borders=st.lists(st.integers(0, 5000), max_size=5).map(tuple),
    tail=st.sampled_from([bytes(1024), bytes(10240), b"", bytes(512), b"x" * 100]),
)
def test_no_bytes_escape_or_leave_anything_when_they_are_refused(
    names: list[bytes], kinds: list[bytes], targets: list[bytes],
    noise: list[tuple[int, bytes]], borders: tuple[int, ...], tail: bytes,
) -> None:  # fmt: skip
    archive = bytearray(encode(Entry(b"link", b"2", 0o777, target=b"../outside")))
    for name, kind, target in zip(names, kinds, targets, strict=False):
        size = 20 if kind in b"0xgLK" else 0
        archive += encode(Entry(name, kind, 0o644, size, 1, target)) + (b"20 path=../../escape\n"[:size]).ljust(
            -(-size // 512) * 512, b"\0"
        )
    archive += tail
    for place, data in noise:
        archive[place : place + len(data)] = data
    with folder() as base:
        target = base / "target"
        (base / "outside").mkdir()
        target.mkdir()
        try:
            unpack(target, bytes(archive), borders=borders)
        except RefusedError:
            assert os.listdir(target) == []
        assert set(outside(target)) == {b"outside"}
        assert not any(name.startswith(".bulkhead") for name in os.listdir(target))


@settings(deadline=None)
@given(data=st.binary(max_size=3000))
def test_bytes_that_are_no_archive_are_refused(data: bytes) -> None:
    with folder() as target:
        with pytest.raises(RefusedError):
            unpack(target, b"x" + data)
        assert os.listdir(target) == []


def made(build: Callable[[tarfile.TarFile], None], **options: object) -> bytes:
    """Return an archive by the standard library."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", **options) as archive:  # type: ignore[call-overload]
        build(archive)
    return buffer.getvalue()


def member(name: str, content: bytes = b"", **fields: object) -> Callable[[tarfile.TarFile], None]:
    def add(archive: tarfile.TarFile) -> None:
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        for field, value in fields.items():
            setattr(entry, field, value)
        archive.addfile(entry, io.BytesIO(content))

    return add


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_archives_of_others_are_read(form: int, tmp_path: Path) -> None:
    long = "d" * 90 + "/" + "f" * 90

    def build(archive: tarfile.TarFile) -> None:
        member(long, b"content")(archive)
        member("ä/folder/", type=tarfile.DIRTYPE, mode=0o700)(archive)
        member("link", type=tarfile.SYMTYPE, linkname="t" * (90 if form == tarfile.USTAR_FORMAT else 150))(archive)

    unpack(tmp_path, made(build, format=form))
    assert (tmp_path / long).read_bytes() == b"content"
    assert (tmp_path / "ä/folder").stat().st_mode & 0o777 == 0o700
    assert os.readlink(tmp_path / "link").startswith("ttt")


def test_special_bits_are_dropped(tmp_path: Path) -> None:
    unpack(tmp_path, made(member("f", mode=0o6755)))
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o755


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (member("../x"), "leads outside"),
        (member("a/../../x"), "leads outside"),
        (member("/x"), "absolute path"),
        (member("x", type=tarfile.LNKTYPE, linkname="/etc/passwd"), "a hard link"),
        (member("x", type=tarfile.CHRTYPE), "a device"),
        (member("x", type=tarfile.BLKTYPE), "a device"),
        (member("x", type=tarfile.FIFOTYPE), "a pipe"),
        (member("n" * 256), "too long"),
        (member("d/" * 2100 + "f"), "no possible name"),
        (member("."), "own folder"),
        (member("x", b"12345", type=tarfile.DIRTYPE), "has content"),
        (member("big", b"x" * 9_000_000), "more than 8388608 bytes"),
        (member("x", pax_headers={"size": "99999999999"}), "are allowed"),
        (member("x", pax_headers={"size": "99999999999999999"}), "impossible"),
        (member("x", pax_headers={"mtime": "soon"}), "is not a number"),
        (member("x", pax_headers={"path": "a\0b"}), "no possible name"),
        (member("x", pax_headers={"comment": "c" * 70_000}), "the attributes of an entry"),
        (member("x", pax_headers={"GNU.sparse.major": "1"}), "holes"),
    ],
)  # fmt: skip
def test_an_archive_that_is_not_as_it_should_be_is_refused(
    build: Callable[[tarfile.TarFile], None], said: str, tmp_path: Path
) -> None:
    archive = made(lambda file: (member("first", b"x")(file), build(file)), format=tarfile.PAX_FORMAT)
    with pytest.raises(RefusedError, match=said):
        unpack(tmp_path, archive)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("kind", ["file", "link"])
def test_nothing_goes_through_what_is_no_folder(kind: str, tmp_path: Path) -> None:
    fields = {"type": tarfile.SYMTYPE, "linkname": "/tmp"} if kind == "link" else {}
    archive = made(lambda file: (member("x", **fields)(file), member("x/y", b"z")(file)))
    with pytest.raises(RefusedError, match="x/y"):
        unpack(tmp_path, archive)
    assert os.listdir(tmp_path) == []


def test_an_entry_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="twice"):
        unpack(tmp_path, made(lambda file: (member("x", b"1")(file), member("x", b"2")(file))))


def test_what_follows_the_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="follows its end"):
        unpack(tmp_path, made(member("x")) + encode(Entry(b"y", b"0", 0o644)) + bytes(1024))


def test_a_wrong_checksum_is_refused(tmp_path: Path) -> None:
    archive = bytearray(made(member("x")))
    archive[0] += 1
    with pytest.raises(RefusedError, match="checksum"):
        unpack(tmp_path, bytes(archive))


@pytest.mark.slow
def test_a_million_entries_are_refused(tmp_path: Path) -> None:
    one = encode(Entry(b"./", b"5", 0o755))
    with pytest.raises(RefusedError, match=f"more than {MAX_ENTRIES} entries"):
        unpack(tmp_path, one * (MAX_ENTRIES + 1), limit=1 << 30)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("place", ["sub", "sub/inner"])
def test_a_link_that_waits_in_the_target_is_not_followed(place: str, tmp_path: Path) -> None:
    target, victim = tmp_path / "target", tmp_path / "victim"
    victim.mkdir()
    (target / place).parent.mkdir(parents=True)
    (target / place).symlink_to(victim)
    with pytest.raises(RefusedError, match="a folder in it and none there"):
        unpack(target, made(member(f"{place}/file", b"x")))
    assert os.listdir(victim) == []


def test_a_folder_reached_by_a_link_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / "real/inner").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real")
    for path in (tmp_path / "link", tmp_path / "link/inner"):
        with pytest.raises(OSError, match="Not a directory"):
            open_folder(str(path))


def test_a_folder_replaced_by_a_link_during_the_walk_is_left_out(tmp_path: Path) -> None:
    source, victim = tmp_path / "source", tmp_path / "victim"
    for path in (source / "a", source / "b", victim):
        path.mkdir(parents=True)
    (victim / "secret").write_text("secret")
    (source / "b/file").write_text("x")
    packing = Packing.of(str(source), max_bytes=LIMIT)
    pieces = packing.pieces()
    taken = b""
    while b"b/" not in taken:
        taken += next(pieces)
    (source / "b/file").unlink()
    (source / "b").rmdir()
    (source / "b").symlink_to(victim)
    taken += b"".join(pieces)
    packing.close()
    assert b"secret" not in taken
    assert b"a/" in taken


def test_a_file_that_shrinks_or_grows_is_made_to_fit_and_said(tmp_path: Path) -> None:
    for name, later in (("grows", b"y" * 300_000), ("shrinks", b"y")):
        path = tmp_path / name
        path.write_bytes(b"x" * 200_000)
        packing = Packing.of(str(tmp_path), max_bytes=LIMIT)
        pieces = packing.pieces()
        taken = next(pieces) + next(pieces)
        path.write_bytes(later)
        taken += b"".join(pieces)
        with tarfile.open(fileobj=io.BytesIO(taken)) as archive:
            assert [entry.size for entry in archive] == [200_000]
        assert packing.receipt()["skipped"] == [f"{name}: changed while it was read"]
        packing.close()
        path.unlink()


@pytest.mark.slow
@pytest.mark.thorough
def test_a_folder_with_more_entries_than_may_be_is_cut_and_said(tmp_path: Path) -> None:
    for number in range(MAX_ENTRIES + 5):
        os.mknod(tmp_path / str(number))
    archive, receipt = pack(tmp_path, limit=1 << 30)
    assert (receipt["entries"], receipt["skipped_count"]) == (MAX_ENTRIES, 1)
    assert archive.endswith(bytes(1024))


@given(limit=st.integers(1024, 30_000))
@settings(deadline=None, max_examples=30)
def test_an_archive_never_exceeds_its_limit(limit: int) -> None:
    with folder() as source, folder() as target:
        for number in range(8):
            (source / str(number)).write_bytes(b"x" * number * 700)
        archive, receipt = pack(source, limit=limit)
        assert len(archive) == receipt["bytes"] <= limit
        unpack(target, archive, limit=limit)
        assert len(os.listdir(target)) == receipt["entries"] == 8 - int(str(receipt["skipped_count"]))
