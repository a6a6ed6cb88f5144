"""The tar format, as far as files, folders and links need it: strict when read, plain when written."""

from sandbox.supervisor.files import RefusedError
from sandbox.supervisor.typed import NamedTuple, Protocol

BLOCK = 512
END = bytes(2 * BLOCK)
MAX_ENTRIES = 100_000
"""A source tree with its dependencies has some ten thousand."""
MAX_PATH_BYTES, MAX_NAME_BYTES = 4096, 255
MAX_DEPTH = 100
"""Every step goes down from the archive's own folder, so that depth costs its square."""
MAX_EXTENSION_BYTES = 64 << 10
"""What belongs to one entry beside its content: two long names and some attributes."""
MAX_TIME = 1 << 40
FILE, FOLDER, LINK = b"0", b"5", b"2"
_EXTENSIONS = {b"x", b"g", b"L", b"K"}
_OTHER = {b"1": "a hard link", b"3": "a device", b"4": "a device", b"6": "a pipe"}
_OCTAL_END = 8**11


class Entry(NamedTuple):
    """A file, folder or link in an archive."""

    name: bytes
    kind: bytes
    mode: int
    size: int = 0
    modified_at: int = 0
    target: bytes = b""


def refused(sentence: str) -> RefusedError:
    """Return the error of an archive that is not taken."""
    return RefusedError("archive_refused", f"the archive is refused: {sentence}; nothing of it was kept")


def shown(name: bytes) -> str:
    """Return a name as a message can hold it."""
    return repr(name[:200].decode(errors="replace"))


def padding(size: int) -> int:
    """Return how many bytes fill up the last block."""
    return -size % BLOCK


def encode(entry: Entry) -> bytes:
    """Return an entry's header, with what does not fit into it before it."""
    records: list[tuple[bytes, bytes]] = []
    if len(entry.name) > 100:
        records.append((b"path", entry.name))
    if len(entry.target) > 100:
        records.append((b"linkpath", entry.target))
    if entry.size >= _OCTAL_END:
        records.append((b"size", b"%d" % entry.size))
    if not 0 <= entry.modified_at < _OCTAL_END:
        records.append((b"mtime", b"%d" % entry.modified_at))
    if not records:
        return _block(entry)
    if not all(_is_text(value) for _, value in records):
        records.insert(0, (b"hdrcharset", b"BINARY"))
    content = b"".join(_record(key, value) for key, value in records)
    header = _block(Entry(b"PaxHeaders/entry", b"x", 0o644, len(content)))
    return header + content + bytes(padding(len(content))) + _block(entry)


def _is_text(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _record(key: bytes, value: bytes) -> bytes:
    rest = b" " + key + b"=" + value + b"\n"
    size = len(rest)
    while len(b"%d" % size) + len(rest) != size:
        size = len(b"%d" % size) + len(rest)
    return b"%d" % size + rest


def _block(entry: Entry) -> bytes:
    size = entry.size if entry.size < _OCTAL_END else 0
    modified_at = entry.modified_at if 0 <= entry.modified_at < _OCTAL_END else 0
    fields = [
        entry.name[:100].ljust(100, b"\0"), b"%07o\0" % entry.mode, b"0000000\0" * 2, b"%011o\0" % size,
        b"%011o\0" % modified_at, b" " * 8, entry.kind, entry.target[:100].ljust(100, b"\0"), b"ustar\x0000",
    ]  # fmt: skip
    block = b"".join(fields).ljust(BLOCK, b"\0")
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


class Taker(Protocol):
    """What becomes of the entries of an archive."""

    def begin(self, entry: Entry) -> None:
        """Take an entry; a file's content follows."""
        ...

    def write(self, data: bytes) -> None:
        """Take a piece of the content of the file begun last."""
        ...

    def end(self) -> None:
        """The file begun last is whole."""
        ...


class Reader:
    """Takes an archive in pieces of any size; raises `RefusedError` at the first thing that is amiss."""

    def __init__(self, taker: Taker, *, max_bytes: int):
        self._taker, self._max = taker, max_bytes
        self._block = bytearray()
        self._left = self._padding = self._zeros = 0
        self._file = False
        self._extension = bytearray()
        self._kind = b""
        self._general: dict[bytes, bytes] = {}
        self._special: dict[bytes, bytes] = {}
        self.taken = self.headers = self.entries = 0

    def feed(self, data: bytes) -> None:
        """Take the next piece."""
        self.taken += len(data)
        if self.taken > self._max:
            raise refused(f"it has more than {self._max} bytes")
        view = memoryview(data)
        while view:
            if self._left:
                size = min(self._left, len(view))
                self._content(bytes(view[:size]))
            elif self._padding:
                size = min(self._padding, len(view))
                self._padding -= size
            else:
                size = min(BLOCK - len(self._block), len(view))
                self._block += view[:size]
                if len(self._block) == BLOCK:
                    block = bytes(self._block)
                    self._block.clear()
                    self._header(block)
            view = view[size:]

    def finish(self) -> None:
        """The archive has no more bytes."""
        if self._zeros < 2 or self._block:
            raise refused("it breaks off before its end")

    def _content(self, data: bytes) -> None:
        self._left -= len(data)
        if self._file:
            self._taker.write(data)
        else:
            self._extension += data
        if not self._left:
            self._complete()

    def _complete(self) -> None:
        if self._file:
            self._file = False
            self._taker.end()
            return
        content = bytes(self._extension)
        self._extension.clear()
        if self._kind in b"LK":
            key = b"path" if self._kind == b"L" else b"linkpath"
            self._special[key] = content.rstrip(b"\0")
        elif self._kind == b"x":
            self._special |= _records(content)
        else:
            self._general |= _records(content)
            if self._general.keys() & {b"path", b"linkpath", b"size"}:
                raise refused("a name or size is given for all entries at once")

    def _header(self, block: bytes) -> None:
        if not any(block):
            self._zeros += 1
            if self._special:
                raise refused("an attribute belongs to no entry")
            return
        if self._zeros:
            raise refused("something follows its end")
        self.headers += 1
        if self.headers > MAX_ENTRIES:
            raise refused(f"it has more than {MAX_ENTRIES} entries")
        if _number(block[148:156]) != sum(block[:148]) + 8 * 32 + sum(block[156:]):
            raise refused("a header's checksum is wrong")
        if block[257:262] != b"ustar":
            raise refused("a header is of no known format")
        kind, size = block[156:157], _number(block[124:136])
        if kind in _EXTENSIONS:
            if size > MAX_EXTENSION_BYTES:
                raise refused(f"the attributes of an entry have {size} bytes")
            self._kind = kind
            self._expect(size)
        else:
            self._entry(block, kind, size)

    def _expect(self, size: int) -> None:
        if size > self._max:
            raise refused(f"an entry of {size} bytes is more than the {self._max} that are allowed")
        self._left, self._padding = size, padding(size)
        if not size:
            self._complete()

    def _entry(self, block: bytes, kind: bytes, size: int) -> None:
        attributes, self._special = self._general | self._special, {}
        if any(key.startswith(b"GNU.sparse") for key in attributes):
            raise refused("it has files with holes, which are not supported")
        name, target = _until_nul(block[:100]), _until_nul(block[157:257])
        if block[257:263] == b"ustar\0" and (prefix := _until_nul(block[345:500])):
            name = prefix + b"/" + name
        entry = Entry(
            name=attributes.get(b"path", name),
            kind=FILE if kind in {b"\0", b"7"} else kind,
            mode=_number(block[100:108]) & 0o777,
            size=_decimal(attributes, b"size", size),
            modified_at=_decimal(attributes, b"mtime", _number(block[136:148])),
            target=attributes.get(b"linkpath", target),
        )
        _check(entry)
        self.entries += 1
        self._taker.begin(entry)
        if entry.kind == FILE:
            self._file = True
            self._expect(entry.size)


def _check(entry: Entry) -> None:
    if entry.kind not in {FILE, FOLDER, LINK}:
        raise refused(f"{shown(entry.name)} is {_OTHER.get(entry.kind, 'of an unknown kind')}")
    if entry.kind != FILE and entry.size:
        raise refused(f"{shown(entry.name)} is no file and has content")
    if not 0 <= entry.size < MAX_TIME or abs(entry.modified_at) > MAX_TIME:
        raise refused(f"{shown(entry.name)} has an impossible size or time")
    if entry.kind == LINK and (not 0 < len(entry.target) < MAX_PATH_BYTES or b"\0" in entry.target):
        raise refused(f"{shown(entry.name)} is a link to an impossible name")


def parts(entry: Entry) -> list[bytes]:
    """Return the names on the way to an entry; none for the archive's own folder. Raises `RefusedError`."""
    name = entry.name
    if not name or b"\0" in name or len(name) > MAX_PATH_BYTES:
        raise refused(f"{shown(name)} is no possible name")
    if name.startswith(b"/"):
        raise refused(f"{shown(name)} is an absolute path")
    if entry.kind != FOLDER and name.endswith((b"/", b"/.")):
        raise refused(f"{shown(name)} has the name of a folder and is none")
    found = [part for part in name.split(b"/") if part not in {b"", b"."}]
    if b".." in found:
        raise refused(f"{shown(name)} leads outside")
    if any(len(part) > MAX_NAME_BYTES for part in found) or len(found) > MAX_DEPTH:
        raise refused(f"{shown(name)} is too long or too deep")
    if not found and entry.kind != FOLDER:
        raise refused(f"{shown(name)} is the archive's own folder")
    return found


def _until_nul(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _number(field: bytes) -> int:
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b" \0")
    if digits.strip(b"01234567"):
        raise refused("a header has a number that is none")
    return int(digits or b"0", 8)


def _decimal(attributes: dict[bytes, bytes], key: bytes, otherwise: int) -> int:
    if key not in attributes:
        return otherwise
    whole = attributes[key].partition(b".")[0]
    if not whole.removeprefix(b"-").isdigit() or len(whole) > 20:
        raise refused(f"the attribute {shown(key)} is not a number")
    return int(whole)


def _records(content: bytes) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    while content:
        digits = content[:8].partition(b" ")[0]
        size = int(digits) if digits.isdigit() else 0
        record = content[:size]
        key, equals, value = record[len(digits) + 1 : -1].partition(b"=")
        if len(record) != size or not record.endswith(b"\n") or not key or not equals:
            raise refused("an attribute is malformed")
        found[key] = value
        content = content[size:]
    return found
