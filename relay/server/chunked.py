"""A chunked body: where it ends, and what is in it.

Every line in it ends in CR LF. Whoever takes less might see another end than the proxy before us,
and a request where that saw a body.
"""

import re

_LONGEST_LINE = 4096
_END = b"\r\n"
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*(?:;[^\r\n]*)?\r\n")
_TRAILER = re.compile(rb"(?:[!#-'*+\-.0-9A-Z^-z|~]+:[^\r\n\0]*)?\r\n")

FREE_FRAMING = 1024
"""Bytes between the chunks that any body may have: two hundred tiny chunks."""
FRAMING_SHARE = 4
"""Above them, one byte for so many of the content: chunks of 24 bytes and more."""


class MalformedChunk(ValueError):
    """This is no chunked body."""


class TooManyChunks(ValueError):
    """There is more between the chunks than in them. Each chunk costs time, however small."""


class Chunked:
    """Decodes a chunked body as it comes."""

    def __init__(self) -> None:
        self.ended = False
        self._size = 0
        """Bytes of content so far."""
        self._framing = 0
        """Bytes of all the rest so far."""
        self._left = 0
        """Bytes of the present chunk still to come."""
        self._behind = False
        """A chunk's bytes are there, and their line end is next."""
        self._trailers = False

    def decode(self, data: bytes) -> tuple[int, bytes]:
        """How many bytes of `data` are complete enough to be read, and the content in them.

        The others are to come again with more behind them. Raises MalformedChunk and
        TooManyChunks.
        """
        position, content = 0, []
        while position < len(data) and not self.ended:
            if self._left:
                chunk = data[position : position + self._left]
                content.append(chunk)
                self._left -= len(chunk)
                self._size += len(chunk)
                position += len(chunk)
                continue
            end = self._line(data, position)
            if not end:
                break
            self._count(end - position)
            position = end
        return position, b"".join(content)

    def _line(self, data: bytes, position: int) -> int:
        """Take the line that begins there; where it ends, or 0 while that is still to come."""
        if self._behind:
            end = data[position : position + 2]
            self._behind = end == _END[:1]
            if end not in (_END, _END[:1]):
                raise MalformedChunk("a chunk longer than its size")
            return 0 if self._behind else position + 2
        found = (_TRAILER if self._trailers else _SIZE).match(data, position)
        if found is None:
            return self._unfinished(data, position)
        if self._trailers:
            self.ended = found[0] == _END
        else:
            self._left = int(found[1], 16)
            self._behind = self._left > 0
            self._trailers = not self._behind
        return found.end()

    def _unfinished(self, data: bytes, position: int) -> int:
        """0 while the line may still become a right one."""
        if len(data) - position > _LONGEST_LINE:
            raise MalformedChunk("the line of a chunk is too long")
        if data.find(b"\n", position) >= 0:
            raise MalformedChunk("a line that is no size or trailer, or does not end in CR LF")
        return 0

    def _count(self, framing: int) -> None:
        self._framing += framing
        if self._framing > FREE_FRAMING + self._size // FRAMING_SHARE:
            raise TooManyChunks
