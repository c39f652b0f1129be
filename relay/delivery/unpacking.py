"""The content codings of an answer that were asked for, gzip and deflate, undone bit by bit."""

import zlib
from collections.abc import Iterator, Sequence

PIECE = 64 * 1024
"""Bytes that are unpacked at a time, so that a small body cannot fill memory."""
MOST_MEMBERS = 64
"""Of a gzip file, the parts that are packed one by one."""
GZIP = 16 + zlib.MAX_WBITS
GZIP_MAGIC = b"\x1f"
FORMATS = {"gzip": GZIP, "x-gzip": GZIP, "deflate": zlib.MAX_WBITS}


class NotUnpacked(Exception):
    """The body cannot be unpacked; the text says why."""


class Unpacker:
    """Unpacks a body with these values of Content-Encoding. Everything raises NotUnpacked."""

    def __init__(self, codings: Sequence[str]) -> None:
        names = [name for each in ",".join(codings).lower().split(",") if (name := each.strip())]
        self._codings = [name for name in names if name != "identity"]
        self._stream: zlib._Decompress | None = None
        self._members = 1

    def feed(self, data: bytes) -> Iterator[bytes]:
        """What comes out, in pieces; nothing of what follows the end of the packed body."""
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
            raise NotUnpacked("it is not packed as it says") from None

    def end(self) -> None:
        """The body is at its end."""
        if self._stream is not None and not self._stream.eof:
            raise NotUnpacked("its packed form breaks off")

    def _next_member(self, data: bytes) -> bytes:
        """Begin the next part of a gzip file; the bytes of it. What else follows is left out."""
        if not data.startswith(GZIP_MAGIC):
            return b""
        self._members += 1
        if self._members > MOST_MEMBERS:
            raise NotUnpacked("it is packed in too many parts")
        self._stream = zlib.decompressobj(GZIP)
        return data

    def _format(self, data: bytes) -> int:
        if len(self._codings) > 1 or self._codings[0] not in FORMATS:
            raise NotUnpacked("it is packed in a way that was not asked for")
        # Some servers send deflate without the header that zlib has.
        if self._codings[0] == "deflate" and data[0] & 0x0F != zlib.DEFLATED:
            return -zlib.MAX_WBITS
        return FORMATS[self._codings[0]]
