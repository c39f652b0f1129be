"""The head of an HTTP response: its status line and headers, read leniently and within bounds.

Only the status line has to be right: a header that cannot be read is left out, as it does not
change what the status says.
"""

import re
from dataclasses import dataclass
from enum import Enum, auto

LARGEST = 64 * 1024
"""Bytes of a head."""
MOST_HEADERS = 256
BLANK_LINE = re.compile(rb"\n\r?\n")
STATUS_LINE = re.compile(rb"HTTP/(\d)\.(\d)[ \t]+([1-9]\d\d)(?:[ \t].*)?")
NAME = re.compile(rb"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
UNREADABLE = re.compile(rb"[\0\r]")
LENGTH = re.compile(rb"[0-9]{1,15}")
WITHOUT_BODY = frozenset({204, 304})


class BadHead(Exception):
    """The bytes are no head of a response, or too large for one; the text says which."""


class Body(Enum):
    """Where the body of a response ends (RFC 9112, section 6.3)."""

    NONE = auto()
    LENGTH = auto()
    CHUNKED = auto()
    UNTIL_CLOSE = auto()
    UNKNOWN = auto()


@dataclass(frozen=True, slots=True)
class Head:
    """Headers stand in their order; names and values are as they came."""

    version: tuple[int, int]
    status: int
    headers: tuple[tuple[bytes, bytes], ...]

    def values(self, name: bytes) -> list[bytes]:
        """The members of a list-valued header, in lower case; `name` is in lower case, too."""
        found = b",".join(value for each, value in self.headers if each.lower() == name)
        return [member for each in found.lower().split(b",") if (member := each.strip())]

    def is_interim(self) -> bool:
        """Whether the answer itself is still to come. 101 is never asked for, so it is an end."""
        return self.status < 200 and self.status != 101

    def keeps_connection(self) -> bool:
        """Whether the next request may use the same connection, if the body ends as it should."""
        options = self.values(b"connection")
        if self.version < (1, 1):
            return b"keep-alive" in options
        return b"close" not in options and self.status != 101


def end_of(data: bytearray, start: int = 0) -> int:
    """The index behind the head's blank line; -1 where it is still to come. Raises BadHead."""
    found = BLANK_LINE.search(data, start)
    if (len(data) if found is None else found.end()) > LARGEST:
        raise BadHead("its headers have more than 64 KiB")
    return -1 if found is None else found.end()


def parse(text: bytes) -> Head:
    """The head of which these are the bytes. Raises BadHead."""
    lines = text.split(b"\n", MOST_HEADERS + 2)
    status_line = STATUS_LINE.fullmatch(lines[0].rstrip(b"\r"))
    if status_line is None:
        raise BadHead("it is not valid HTTP")
    if lines[-1]:
        raise BadHead(f"it has more than {MOST_HEADERS} headers")
    major, minor, status = map(int, status_line.groups())
    return Head((major, minor), status, _headers(lines[1:]))


def body_of(head: Head, *, to_head: bool) -> tuple[Body, int]:
    """How the body ends, and its length where that is known; `to_head` says that HEAD was asked."""
    if to_head or head.status < 200 or head.status in WITHOUT_BODY:
        return Body.NONE, 0
    codings = [each for each in head.values(b"transfer-encoding") if each != b"identity"]
    if codings:
        return (Body.CHUNKED if codings == [b"chunked"] else Body.UNKNOWN), 0
    lengths = set(head.values(b"content-length"))
    if not lengths:
        return Body.UNTIL_CLOSE, 0
    length = lengths.pop()
    if lengths or not LENGTH.fullmatch(length):
        return Body.UNKNOWN, 0
    return Body.LENGTH, int(length)


def disagrees(head: Head, body: Body) -> bool:
    """Whether the headers announce another body than the one that is read."""
    coded, lengths = head.values(b"transfer-encoding"), head.values(b"content-length")
    if body is Body.NONE:
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
