"""The chunked transfer coding (RFC 9112, section 7.1), decoded within bounds."""

import re
from enum import Enum, auto

LONGEST_LINE = 256
"""Bytes of a line that frames a chunk, its extensions included."""
MOST_TRAILERS = 64
SMALL = 32
MOST_SMALL = 4096
"""So many chunks may hold less than SMALL bytes on average: each costs processor time."""
SIZE_LINE = re.compile(rb"[ \t]*([0-9A-Fa-f]{1,15})[ \t]*(?:;.*)?")


class Malformed(Exception):
    """The coding is broken, or costs more than it carries; the text says which."""


class _Expected(Enum):
    SIZE = auto()
    DATA = auto()
    END_OF_DATA = auto()
    TRAILER = auto()
    NOTHING = auto()


class Chunks:
    """Takes the coded body in pieces of any size and gives the body."""

    def __init__(self) -> None:
        self._expected = _Expected.SIZE
        self._line = b""
        self._left = 0
        self._count = 0
        self._size = 0
        self._trailers = 0

    @property
    def complete(self) -> bool:
        """Whether the last chunk has been read; only trailers may follow."""
        return self._expected in (_Expected.TRAILER, _Expected.NOTHING)

    @property
    def ended(self) -> bool:
        """Whether the trailers have been read, too."""
        return self._expected is _Expected.NOTHING

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """The body in these bytes, and the bytes behind its end. Raises Malformed."""
        body: list[bytes] = []
        at = 0
        while at < len(data) and not self.ended:
            if self._expected is _Expected.DATA:
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
            self._expected = _Expected.END_OF_DATA

    def _feed_line(self, data: bytes, start: int) -> int:
        """Read a line, or as much of it as there is; the index behind it."""
        room = LONGEST_LINE - len(self._line)
        end = data.find(b"\n", start, start + room)
        if end < 0:
            if len(data) - start >= room:
                raise Malformed("a line between its chunks is too long")
            self._line += data[start:]
            return len(data)
        line, self._line = (self._line + data[start:end]).removesuffix(b"\r"), b""
        self._end_line(line)
        return end + 1

    def _end_line(self, line: bytes) -> None:
        if self._expected is _Expected.SIZE:
            self._begin(line)
        elif self._expected is _Expected.TRAILER:
            self._trailers += 1
            if not line or self._trailers > MOST_TRAILERS:
                self._expected = _Expected.NOTHING
        elif line:
            raise Malformed("one of its chunks is longer than its size")
        else:
            self._expected = _Expected.SIZE

    def _begin(self, line: bytes) -> None:
        match = SIZE_LINE.fullmatch(line)
        if match is None:
            raise Malformed("one of its chunks has no size")
        self._left = int(match[1], 16)
        self._count += 1
        self._size += self._left
        if not self._left:
            self._expected = _Expected.TRAILER
        elif self._count > MOST_SMALL and self._size < self._count * SMALL:
            raise Malformed("it comes in too many tiny chunks")
        else:
            self._expected = _Expected.DATA
