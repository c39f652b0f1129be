"""Request heads and chunked bodies: what is done to their bytes before the HTTP parser reads them.

A request line may hold what the standard forbids and Sumotext sends: spaces, line breaks and 8-bit
bytes. A chunked body must keep to the letter of it: every line ends in CR LF. A decoder that took
less could find another end than the proxy in front, and a request in what the proxy saw as a body.
"""

import re

FREE_FRAMING = 1024
"""Bytes outside the chunks' content that any body may have: 200 tiny chunks."""
FRAMING_SHARE = 4
"""Above FREE_FRAMING, one byte of framing for so many of content: chunks of 24 bytes and more."""

_PLAIN_LINE = re.compile(rb"[A-Z]+ [!\"$-~]+ HTTP/1\.[01]\r\n")
# What a request target may not have, and `#`, after which the parser would find no query.
_UNSAFE = re.compile(rb"[^!\"$-~]")
_UPGRADE = re.compile(rb"(?im)^upgrade(?=:)")
_LATE_VERSION = re.compile(rb" HTTP/1\.[01]\r?\n")

_LONGEST_LINE = 4096
_CRLF = b"\r\n"
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*(?:;[^\r\n]*)?\r\n")
_TRAILER = re.compile(rb"(?:[!#-'*+\-.0-9A-Z^-z|~]+:[^\r\n\0]*)?\r\n")


def normalise_head(head: bytes) -> bytes:
    """The head with a request line that conforms to the standard.

    The last ` HTTP/1.` of the first line ends the target, so the target may hold spaces. Where the
    first line has none, the target holds line breaks, as of a message typed in two lines.
    `Upgrade` is renamed, because the relay upgrades to no other protocol; it stays a header, so
    that the parser still refuses a malformed one.
    """
    if not _PLAIN_LINE.match(head):
        line, rest = _split_request_line(head)
        method, _, rest_of_line = line.partition(b" ")
        target, separator, version = rest_of_line.rpartition(b" HTTP/1.")
        if separator:
            target = _UNSAFE.sub(_percent_encode, target.lstrip(b" "))
            head = b"%s %s HTTP/1.%s\r\n%s" % (method, target, version.rstrip(), rest)
    if b"upgrade" in head.lower():
        line, newline, rest = head.partition(b"\n")
        head = line + newline + _UPGRADE.sub(b"x-upgrade", rest)
    return head


def split_target(target: bytes) -> tuple[bytes, bytes]:
    """The path and the query of a request target, which may be a URL with scheme and host."""
    path, _, query = target.partition(b"?")
    if not path.startswith(b"/") and b"://" in path:
        path = b"/" + path.split(b"://", 1)[1].partition(b"/")[2]
    return path, query


def _split_request_line(head: bytes) -> tuple[bytes, bytes]:
    """The request line, and what follows it."""
    line, _, rest = head.partition(b"\n")
    if b" HTTP/1." not in line and (late := _LATE_VERSION.search(head)):
        return head[: late.end()].rstrip(b"\r\n"), head[late.end() :]
    return line, rest


def _percent_encode(byte: re.Match[bytes]) -> bytes:
    return b"%%%02X" % byte[0][0]


class MalformedChunk(ValueError):
    """The body does not conform to the chunked transfer coding."""


class TooMuchFraming(ValueError):
    """The framing exceeds its share of the body. Each chunk costs time, however small it is."""


class ChunkedRequestDecoder:
    """Incremental decoder of one chunked body."""

    def __init__(self) -> None:
        self.ended = False
        self._content_size = 0
        """Bytes of content so far."""
        self._framing_size = 0
        """Bytes of all else so far."""
        self._left = 0
        """Bytes of the present chunk still to come."""
        self._expects_line_end = False
        """The content of a chunk is complete, and its CR LF comes next."""
        self._in_trailers = False

    def decode(self, data: bytes) -> tuple[int, bytes]:
        """The number of bytes of `data` that were consumed, and their content.

        The next call starts with the other bytes. Raises MalformedChunk and TooMuchFraming.
        """
        position, content = 0, []
        while position < len(data) and not self.ended:
            if self._left:
                chunk = data[position : position + self._left]
                content.append(chunk)
                self._left -= len(chunk)
                self._content_size += len(chunk)
                position += len(chunk)
                continue
            end = self._read_line(data, position)
            if not end:
                break
            self._count_framing(end - position)
            position = end
        return position, b"".join(content)

    def _read_line(self, data: bytes, position: int) -> int:
        """Read the line at `position`. Returns its end, or 0 while the line is incomplete."""
        if self._expects_line_end:
            end = data[position : position + 2]
            self._expects_line_end = end == _CRLF[:1]
            if end not in (_CRLF, _CRLF[:1]):
                raise MalformedChunk("a chunk longer than its size")
            return 0 if self._expects_line_end else position + 2
        found = (_TRAILER if self._in_trailers else _SIZE).match(data, position)
        if found is None:
            return self._check_incomplete(data, position)
        if self._in_trailers:
            self.ended = found[0] == _CRLF
        else:
            self._left = int(found[1], 16)
            self._expects_line_end = self._left > 0
            self._in_trailers = not self._expects_line_end
        return found.end()

    def _check_incomplete(self, data: bytes, position: int) -> int:
        """0 for a line that more bytes can complete; else raises MalformedChunk."""
        if len(data) - position > _LONGEST_LINE:
            raise MalformedChunk("the line of a chunk is too long")
        if data.find(b"\n", position) >= 0:
            raise MalformedChunk("a line that is no size or trailer, or does not end in CR LF")
        return 0

    def _count_framing(self, size: int) -> None:
        self._framing_size += size
        if self._framing_size > FREE_FRAMING + self._content_size // FRAMING_SHARE:
            raise TooMuchFraming
