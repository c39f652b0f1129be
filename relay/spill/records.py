"""The spill's records: a line for each callback, and how lines are read past unreadable pages.

A line is the CRC-32 of what follows, and the record as JSON with the callback's bytes as Latin-1.
"""

import errno
import itertools
import os
import re
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import orjson

from relay.event import RawCallback

BYTES = ("query", "body", "token_digest")
OPTIONAL = ("encoding", "sender", "token_digest")
"""Left out of a line where they are empty, as in the lines of earlier releases."""

SUM = 8
"""Hexadecimal digits of the checksum."""

BEGINNING = re.compile(rb'[0-9a-f]{8} \{"id":"')
"""Where a record begins. Within a record these quotes have backslashes before them."""

BLOCK = 64 * 1024
PAGE = 4096
LONGEST = 16 * 1024 * 1024
"""Bytes after which a line ends without its line break: no callback makes a longer one."""


class Spilled(NamedTuple):
    """A callback in the spill, with the id that its sender got in the answer.

    With a `status` it goes to quarantine, for the `reason`; else it is an event. One that is `late`
    may be older than what its contact has said since: it was released from quarantine, or waited in
    a spill that could not be read.
    """

    id: str
    callback: RawCallback
    status: int | None = None
    reason: str = ""
    late: bool = False


def encode(spilled: Spilled) -> bytes:
    """The record as a line."""
    callback = {
        name: value.decode("latin-1") if name in BYTES else value
        for name, value in spilled.callback._asdict().items()
        if value or name not in OPTIONAL
    }
    kept = {} if spilled.status is None else {"status": spilled.status, "reason": spilled.reason}
    kept |= {"late": True} if spilled.late else {}
    record = orjson.dumps({"id": spilled.id, **kept, "callback": callback})
    return b"%0*x %s\n" % (SUM, zlib.crc32(record), record)


def decode(line: bytes) -> Spilled | None:
    """The record that a line holds; None where it is not as it was written."""
    digits, _, record = line.removesuffix(b"\n").partition(b" ")
    try:
        if len(digits) != SUM or int(digits, 16) != zlib.crc32(record):
            return None
        found: dict[str, Any] = orjson.loads(record)
        callback = _known(RawCallback, found.pop("callback"))
        callback |= {name: callback[name].encode("latin-1") for name in BYTES if name in callback}
        return Spilled(**_known(Spilled, found), callback=RawCallback(**callback))
    except (AttributeError, KeyError, TypeError, ValueError):
        return None


def split(line: bytes) -> list[bytes]:
    """The lines in what is read as one: a line break is no part of what the checksum covers.

    Each is a record, or is none of any record's bytes.
    """
    if decode(line) is not None:
        return [line]
    starts = [found.start() for found in BEGINNING.finditer(line)]
    pieces = [line[a:b] for a, b in itertools.pairwise([0, *starts, len(line)]) if b > a]
    found = [_record(piece) for piece in pieces]
    if not any(found):
        return [line]
    return [record or _ended(piece) for record, piece in zip(found, pieces, strict=True)]


def _record(piece: bytes) -> bytes | None:
    """The record at the beginning of a piece, as a line; a damaged byte may follow it."""
    text = piece.removesuffix(b"\n")
    for record in (text, text[:-1], text.rstrip(b"\0")):
        if decode(record) is not None:
            return _ended(record)
    return None


def _ended(line: bytes) -> bytes:
    return line if line.endswith(b"\n") else line + b"\n"


def _known(kind: type[NamedTuple], values: Mapping[str, Any]) -> dict[str, Any]:
    """The known fields only: a later release, before a downgrade, may have written others."""
    return {name: value for name, value in values.items() if name in kind._fields}


class FileBlock(NamedTuple):
    """Bytes of the file from the offset `at`; with zeros for the pages that cannot be read."""

    at: int
    content: bytes
    whole: bool = True


class Line(NamedTuple):
    """A line with its line break; `whole` unless a page of it could not be read."""

    content: bytes
    whole: bool


def read_blocks(descriptor: int, start: int, end: int, *, skip: bool) -> Iterator[FileBlock]:
    """The bytes from `start` to `end`. With `skip`, pages that cannot be read come as zeros.

    Raises OSError.
    """
    while start < end:
        size = min(BLOCK - start % BLOCK, end - start)
        block = _block(descriptor, start, size, skip=skip)
        if not block.content:  # another program has cut the file short
            return
        yield block
        start += len(block.content)


def read_lines(descriptor: int, start: int, end: int, *, skip: bool) -> Iterator[Line]:
    """The lines from `start` to `end`, the last one with or without its line break."""
    rest, whole = b"", True
    for block in read_blocks(descriptor, start, end, skip=skip):
        *ended, last = block.content.split(b"\n")
        for each in ended:
            yield Line(rest + each + b"\n", whole and block.whole)
            rest, whole = b"", True
        rest, whole = rest + last, whole and block.whole
        if len(rest) > LONGEST:
            yield Line(rest, whole)
            rest, whole = b"", True
    if rest:
        yield Line(rest, whole)


def _block(descriptor: int, at: int, size: int, *, skip: bool) -> FileBlock:
    try:
        return FileBlock(at, os.pread(descriptor, size, at))
    except OSError as error:
        if error.errno != errno.EIO or not skip:
            raise
    edges = [at, *range(at - at % PAGE + PAGE, at + size, PAGE), at + size]
    spans = [(first, last - first) for first, last in itertools.pairwise(edges)]
    pages = [_page(descriptor, first, length) for first, length in spans]
    content = b"".join(
        bytes(length) if page is None else page
        for page, (_, length) in zip(pages, spans, strict=True)
    )
    return FileBlock(at, content, whole=None not in pages)


def _page(descriptor: int, at: int, size: int) -> bytes | None:
    """None where the disk cannot read it."""
    try:
        return os.pread(descriptor, size, at)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return None
