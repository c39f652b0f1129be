"""Where a chunked body ends, so that the bytes behind it are not taken for a part of it.

Every line in it ends in CR LF. Whoever takes less might see another end than the proxy before us,
and a request where that saw a body.
"""

import re

_LONGEST_LINE = 4096
_END = b"\r\n"
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*(?:;.*)?")


class Chunked:
    """Follows a chunked body without decoding it; the parser does that, and checks it too."""

    def __init__(self) -> None:
        self.ended = False
        self.taken = 0
        """Bytes of it so far, with all that is between the chunks."""
        self._left = 0
        """Bytes of the present chunk still to come."""
        self._behind = False
        """A chunk's bytes are there, and their line end is next."""
        self._trailers = False

    def extent(self, data: bytes) -> int:
        """How many bytes of `data` belong to the body and are complete enough to be parsed.

        The others are to come again with more behind them. Raises ValueError for what is no
        chunk.
        """
        position = 0
        while position < len(data) and not self.ended:
            if self._left:
                step = min(self._left, len(data) - position)
                self._left -= step
                position += step
                continue
            if self._behind and data[position : position + 2] not in (_END, _END[:1]):
                raise ValueError("a chunk longer than its size")
            end = data.find(b"\n", position) + 1
            if not end:
                if len(data) - position > _LONGEST_LINE:
                    raise ValueError("the line of a chunk is too long")
                break
            self._line(_unended(data[position:end]))
            position = end
        self.taken += position
        return position

    def _line(self, line: bytes) -> None:
        if self._behind:
            self._behind = False
        elif self._trailers:
            self.ended = not line
        else:
            found = _SIZE.fullmatch(line)
            if found is None:
                raise ValueError("a chunk without its size")
            self._left = int(found[1], 16)
            self._behind = self._left > 0
            self._trailers = not self._behind


def _unended(line: bytes) -> bytes:
    """The line without its CR LF, which are to be nowhere else in it."""
    bare = line.removesuffix(_END)
    if bare == line or b"\r" in bare:
        raise ValueError("a line that does not end in CR LF")
    return bare
