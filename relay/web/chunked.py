"""Where a chunked body ends, so that the bytes behind it are not taken for a part of it."""

_LONGEST_LINE = 4096


class Chunked:
    """Follows a chunked body without decoding it; the parser does that, and checks it too."""

    def __init__(self) -> None:
        self.ended = False
        self.taken = 0
        """Bytes of it so far, with all that is between the chunks."""
        self._left = 0
        """Bytes of the present chunk, its line end included, still to come."""
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
            end = data.find(b"\n", position) + 1
            if not end:
                if len(data) - position > _LONGEST_LINE:
                    raise ValueError("the line of a chunk is too long")
                break
            self._line(data[position:end].strip())
            position = end
        self.taken += position
        return position

    def _line(self, line: bytes) -> None:
        if self._trailers:
            self.ended = not line
            return
        digits = line.partition(b";")[0].strip()
        if not digits.isalnum():
            raise ValueError("a chunk without its size")
        size = int(digits, 16)
        self._trailers = size == 0
        self._left = size + 2 if size else 0
