"""The first part of an HTTP/1.1 message: read in the one way in which every reader reads it, or not at all.

RFC 9112 lets a reader be lenient in places where two readers may then differ; here it is strict in all of them. Lines
end with CR LF, none is folded, nothing is a control character; what says how long a message is stands there once.
"""

import re

from sandbox.egress.limits import MAX_HEAD_BYTES, MAX_HEADERS

Headers = list[tuple[bytes, bytes]]

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_VALUE = rb"[\t\x20-\x7e\x80-\xff]*"
_REQUEST = re.compile(rb"(" + _TOKEN + rb") ([\x21-\x7e]+) HTTP/([0-9]\.[0-9])\r\n")
_ANSWER = re.compile(rb"HTTP/([0-9]\.[0-9]) ([1-9][0-9][0-9])(?: (" + _VALUE + rb"))?\r\n")
_FIELD = re.compile(rb"^(" + _TOKEN + rb"):(" + _VALUE + rb")\r\n", re.MULTILINE)
_LENGTH = re.compile(rb"[0-9]{1,18}\Z")
# What no valid head holds, however it goes on. A carriage return at the end may still get its line feed.
_UNCLEAN = re.compile(rb"(?<!\r)\n|\r[^\n]|\r\n[ \t]|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_NO_TOKENS = frozenset[bytes]()
_END = b"\r\n\r\n"
_ONCE = frozenset({b"host", b"content-length", b"transfer-encoding"})
# Those of one connection, and those that say where the body ends: whoever passes it on says that anew.
_NOT_PASSED_ON = frozenset(
    {
        b"content-length",
        b"connection", b"keep-alive", b"proxy-connection", b"proxy-authorization", b"proxy-authenticate", b"te",
        b"trailer", b"transfer-encoding", b"upgrade", b"http2-settings",
    }
)  # fmt: skip


class MessageError(ValueError):
    """A message that is not exactly one: a clause that says why, and what a client is answered."""

    def __init__(self, why: str, *, status: int = 400, reason: str = "malformed_request"):
        super().__init__(why)
        self.status = status
        self.reason = reason


class Head:
    """Headers, easy to find; ``length`` None: there is no Content-Length."""

    def __init__(self, version: bytes, data: bytes, start: int, end: int):
        self.version = version
        self.headers = read_fields(data, start, end)
        self._named = _by_name(self.headers)
        length = self._named.get(b"content-length")
        if length is not None and not _LENGTH.match(length):
            raise MessageError("its length is not a number")
        self.length = None if length is None else int(length)
        self.is_chunked = self._is_chunked()
        self._options = self.tokens(b"connection")
        self.may_be_followed = version == b"1.1" and b"close" not in self._options
        """Whether the connection stays open for another message."""

    def value(self, name: bytes) -> bytes | None:
        """Return a header's value, several of one name as a list with commas; ``name`` in lower case."""
        return self._named.get(name)

    def tokens(self, name: bytes) -> frozenset[bytes]:
        """Return the parts of a header that is a list, in lower case."""
        value = self._named.get(name)
        return _NO_TOKENS if value is None else frozenset([part.strip().lower() for part in value.split(b",")])

    def end_to_end(self) -> Headers:
        """Return the headers without those that concern one connection only, or the body's framing."""
        dropped = _NOT_PASSED_ON | self._options
        return [each for each in self.headers if each[0].lower() not in dropped]

    def _is_chunked(self) -> bool:
        encoding = self._named.get(b"transfer-encoding")
        if encoding is None:
            return False
        if encoding.lower() != b"chunked":
            raise MessageError("its transfer encoding is not chunked", status=501)
        if self.length is not None or self.version != b"1.1":
            raise MessageError("it has chunks, and a length or an old version")
        return True


class RequestHead(Head):
    """The first part of a request."""

    def __init__(self, data: bytes, end: int):
        """Read what ends at ``end``; raises `MessageError`."""
        line = _REQUEST.match(data, 0, end)
        if line is None:
            raise MessageError("its first line is not a request's")
        self.method, self.target, version = line.groups()
        if version not in {b"1.0", b"1.1"}:
            raise MessageError("its version is not 1.1", status=505)
        super().__init__(version, data, line.end(), end)
        if version == b"1.1" and self.value(b"host") is None:
            raise MessageError("it names no host")

    @property
    def has_body(self) -> bool:
        """Whether it announces a body."""
        return self.is_chunked or bool(self.length)

    @property
    def asks_for_websocket(self) -> bool:
        """Whether it wants to become a WebSocket."""
        return self.tokens(b"upgrade") == frozenset({b"websocket"}) and b"upgrade" in self._options


class AnswerHead(Head):
    """The first part of an answer."""

    def __init__(self, data: bytes, end: int):
        """Read what ends at ``end``; raises `MessageError`."""
        line = _ANSWER.match(data, 0, end)
        if line is None:
            raise MessageError("its first line is not an answer's")
        version, status, reason = line.groups()
        if version not in {b"1.0", b"1.1"}:
            raise MessageError("its version is not 1.1")
        self.status = int(status)
        self.reason: bytes = reason or b""
        super().__init__(version, data, line.end(), end)


def head_end(data: bytes | bytearray, seen: int = 0, *, limit: int = MAX_HEAD_BYTES) -> int:
    """Return where a head ends, 0 if it goes on; raises `MessageError` as soon as no valid one can come of it.

    ``seen``: as much of ``data`` was there before.
    """
    begun = max(0, seen - 3)
    found = data.find(_END, begun)
    end = 0 if found == -1 else found + len(_END)
    if (end or len(data)) > limit:
        raise MessageError(f"its head has more than {limit} bytes", status=431, reason="head_too_large")
    if not end and _UNCLEAN.search(data, begun):
        raise MessageError("its head holds a line end or a byte that does not belong there")
    return end


def read_fields(data: bytes, start: int, end: int) -> Headers:
    """Read the lines from ``start`` to the empty line that ends at ``end``; raises `MessageError`."""
    found = _FIELD.findall(data, start, end)
    # Every line is one header, or there is a line that is none.
    if len(found) + 1 != data.count(b"\n", start, end):
        raise MessageError("a line is not a header")
    if len(found) > MAX_HEADERS:
        raise MessageError(f"it has more than {MAX_HEADERS} headers", status=431, reason="too_many_headers")
    return [(name, value.strip(b" \t")) for name, value in found]


def _by_name(headers: Headers) -> dict[bytes, bytes]:
    named: dict[bytes, bytes] = {}
    for name, value in headers:
        lower = name.lower()
        if lower not in named:
            named[lower] = value
        elif lower in _ONCE:
            # Two transfer encodings could be one list, and are refused as lists are.
            status = 501 if lower == b"transfer-encoding" else 400
            raise MessageError("a header that must be there once is there twice", status=status)
        else:
            named[lower] += b", " + value
    return named
