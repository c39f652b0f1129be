"""The parts of an HTTP response as bytes, each read leniently and within bounds.

Its head: only the status line has to be right. A header that cannot be read is left out, as it
does not change what the status says. Its body: the chunked transfer coding (RFC 9112, section
7.1), and the content codings gzip and deflate.
"""

import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, auto

LARGEST_HEAD = 64 * 1024
"""Bytes of a head."""
MOST_HEADERS = 256
BLANK_LINE = re.compile(rb"\n\r?\n")
STATUS_LINE = re.compile(rb"HTTP/(\d)\.(\d)[ \t]+([1-9]\d\d)(?:[ \t].*)?")
NAME = re.compile(rb"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
UNREADABLE = re.compile(rb"[\0\r]")
LENGTH = re.compile(rb"[0-9]{1,15}")
WITHOUT_BODY = frozenset({204, 304})


class BadHead(Exception):
    """The bytes are no head of a response, or too large for one. The text says which."""


class BodyFraming(Enum):
    """Where the body of a response ends (RFC 9112, section 6.3)."""

    NONE = auto()
    LENGTH = auto()
    CHUNKED = auto()
    UNTIL_CLOSE = auto()
    UNKNOWN = auto()


@dataclass(frozen=True, slots=True)
class Head:
    """The head of a response. Headers are in their order; names and values are as they came."""

    version: tuple[int, int]
    status: int
    headers: tuple[tuple[bytes, bytes], ...]

    def values(self, name: bytes) -> list[bytes]:
        """The members of a list-valued header, in lower case; `name` is in lower case, too."""
        found = b",".join(value for each, value in self.headers if each.lower() == name)
        return [member for each in found.lower().split(b",") if (member := each.strip())]

    def is_interim(self) -> bool:
        """Whether the answer itself is still to come. 101 is final: no request asks for it."""
        return self.status < 200 and self.status != 101

    def keeps_connection(self) -> bool:
        """Whether the next request may use the same connection, if the body ends as it should."""
        options = self.values(b"connection")
        if self.version < (1, 1):
            return b"keep-alive" in options
        return b"close" not in options and self.status != 101


def end_of_head(data: bytearray, start: int = 0) -> int:
    """The index behind the head's blank line; -1 where it is still to come. Raises BadHead."""
    found = BLANK_LINE.search(data, start)
    if (len(data) if found is None else found.end()) > LARGEST_HEAD:
        raise BadHead("its headers have more than 64 KiB")
    return -1 if found is None else found.end()


def parse_head(text: bytes) -> Head:
    """The head of which these are the bytes. Raises BadHead."""
    lines = text.split(b"\n", MOST_HEADERS + 2)
    status_line = STATUS_LINE.fullmatch(lines[0].rstrip(b"\r"))
    if status_line is None:
        raise BadHead("it is not valid HTTP")
    if lines[-1]:
        raise BadHead(f"it has more than {MOST_HEADERS} headers")
    major, minor, status = map(int, status_line.groups())
    return Head((major, minor), status, _headers(lines[1:]))


def body_of(head: Head, *, to_head: bool) -> tuple[BodyFraming, int]:
    """How the body ends, and its length if that is known. `to_head`: the request was a HEAD."""
    if to_head or head.status < 200 or head.status in WITHOUT_BODY:
        return BodyFraming.NONE, 0
    codings = [each for each in head.values(b"transfer-encoding") if each != b"identity"]
    if codings:
        return (BodyFraming.CHUNKED if codings == [b"chunked"] else BodyFraming.UNKNOWN), 0
    lengths = set(head.values(b"content-length"))
    if not lengths:
        return BodyFraming.UNTIL_CLOSE, 0
    length = lengths.pop()
    if lengths or not LENGTH.fullmatch(length):
        return BodyFraming.UNKNOWN, 0
    return BodyFraming.LENGTH, int(length)


def framing_conflicts(head: Head, body: BodyFraming) -> bool:
    """Whether the headers announce another body than the one that is read."""
    coded, lengths = head.values(b"transfer-encoding"), head.values(b"content-length")
    if body is BodyFraming.NONE:
        # That of HEAD and of 304 is the length of a body that is not sent.
        return head.status == 204 and bool(coded or any(each.strip(b"0") for each in lengths))
    return bool(coded and lengths)


def _headers(lines: list[bytes]) -> tuple[tuple[bytes, bytes], ...]:
    headers: list[tuple[bytes, bytes]] = []
    for line in lines:
        name, colon, value = line.rstrip(b"\r").partition(b":")
        name, value = name.rstrip(b" \t"), value.strip(b" \t")
        if colon and NAME.fullmatch(name) and not UNREADABLE.search(value):
            headers.append((name, value))
    return tuple(headers)


LONGEST_LINE = 256
"""Bytes of a line that frames a chunk, its extensions included."""
MOST_TRAILERS = 64
SMALL = 32
MOST_SMALL = 4096
"""The most chunks with less than SMALL bytes on average, as each costs processor time."""
SIZE_LINE = re.compile(rb"[ \t]*([0-9A-Fa-f]{1,15})[ \t]*(?:;.*)?")


class BadChunks(Exception):
    """The chunked coding is broken, or costs more than it carries. The text says which."""


class _ChunkPart(Enum):
    SIZE = auto()
    DATA = auto()
    END_OF_DATA = auto()
    TRAILER = auto()
    NOTHING = auto()


class ChunkedResponseDecoder:
    """Decodes a chunked body that comes in pieces of any size."""

    def __init__(self) -> None:
        self._expected = _ChunkPart.SIZE
        self._line = b""
        self._left = 0
        self._count = 0
        self._size = 0
        self._trailers = 0

    @property
    def complete(self) -> bool:
        """Whether the last chunk has been read; only trailers may follow."""
        return self._expected in (_ChunkPart.TRAILER, _ChunkPart.NOTHING)

    @property
    def ended(self) -> bool:
        """Whether the trailers have been read, too."""
        return self._expected is _ChunkPart.NOTHING

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """The body in these bytes, and the bytes behind its end. Raises BadChunks."""
        body: list[bytes] = []
        at = 0
        while at < len(data) and not self.ended:
            if self._expected is _ChunkPart.DATA:
                piece = data[at : at + self._left]
                body.append(piece)
                at += len(piece)
                self._take(len(piece))
            else:
                at = self._feed_line(data, at)
        return b"".join(body), data[at:]

    def _take(self, length: int) -> None:
        self._left -= length
        if not self._left:
            self._expected = _ChunkPart.END_OF_DATA

    def _feed_line(self, data: bytes, start: int) -> int:
        """Read a line, or as much of it as there is; the index behind it."""
        room = LONGEST_LINE - len(self._line)
        end = data.find(b"\n", start, start + room)
        if end < 0:
            if len(data) - start >= room:
                raise BadChunks("a line between its chunks is too long")
            self._line += data[start:]
            return len(data)
        line, self._line = (self._line + data[start:end]).removesuffix(b"\r"), b""
        self._end_line(line)
        return end + 1

    def _end_line(self, line: bytes) -> None:
        if self._expected is _ChunkPart.SIZE:
            self._begin(line)
        elif self._expected is _ChunkPart.TRAILER:
            self._trailers += 1
            if not line or self._trailers > MOST_TRAILERS:
                self._expected = _ChunkPart.NOTHING
        elif line:
            raise BadChunks("one of its chunks is longer than its size")
        else:
            self._expected = _ChunkPart.SIZE

    def _begin(self, line: bytes) -> None:
        match = SIZE_LINE.fullmatch(line)
        if match is None:
            raise BadChunks("one of its chunks has no size")
        self._left = int(match[1], 16)
        self._count += 1
        self._size += self._left
        if not self._left:
            self._expected = _ChunkPart.TRAILER
        elif self._count > MOST_SMALL and self._size < self._count * SMALL:
            raise BadChunks("it comes in too many tiny chunks")
        else:
            self._expected = _ChunkPart.DATA


PIECE = 64 * 1024
"""Bytes that are decoded at a time, so that a small body cannot fill memory."""
MOST_MEMBERS = 64
"""The most members of a gzip body."""
GZIP = 16 + zlib.MAX_WBITS
GZIP_MAGIC = b"\x1f"
FORMATS = {"gzip": GZIP, "x-gzip": GZIP, "deflate": zlib.MAX_WBITS}


class BadCoding(Exception):
    """The content coding cannot be undone. The text says why."""


class ContentDecoder:
    """Decodes a body with these values of Content-Encoding. Every method raises BadCoding."""

    def __init__(self, codings: Sequence[str]) -> None:
        names = [name for each in ",".join(codings).lower().split(",") if (name := each.strip())]
        self._codings = [name for name in names if name != "identity"]
        self._stream: zlib._Decompress | None = None
        self._members = 1

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The decoded bytes, in pieces. Bytes behind the end of the coded body are dropped."""
        if not self._codings:
            yield data
            return
        if self._stream is None:
            self._stream = zlib.decompressobj(self._format(data))
        try:
            while data:
                if self._stream.eof:
                    data = self._next_member(data)
                    continue
                if piece := self._stream.decompress(data, PIECE):
                    yield piece
                data = self._stream.unconsumed_tail or self._stream.unused_data
        except zlib.error:
            raise BadCoding("it is not packed as it says") from None

    def end(self) -> None:
        """End the body."""
        if self._stream is not None and not self._stream.eof:
            raise BadCoding("its packed form breaks off")

    def _next_member(self, data: bytes) -> bytes:
        """Begin the next member of a gzip file and return its bytes; anything else is dropped."""
        if not data.startswith(GZIP_MAGIC):
            return b""
        self._members += 1
        if self._members > MOST_MEMBERS:
            raise BadCoding("it is packed in too many parts")
        self._stream = zlib.decompressobj(GZIP)
        return data

    def _format(self, data: bytes) -> int:
        if len(self._codings) > 1 or self._codings[0] not in FORMATS:
            raise BadCoding("it is packed in a way that was not asked for")
        # Some servers send deflate without the header that zlib has.
        if self._codings[0] == "deflate" and data[0] & 0x0F != zlib.DEFLATED:
            return -zlib.MAX_WBITS
        return FORMATS[self._codings[0]]
