"""Reads the lines of the spill's file, and goes on behind pages that the disk cannot read."""

import errno
import itertools
import os
from collections.abc import Iterator
from typing import NamedTuple

BLOCK = 64 * 1024
PAGE = 4096
LONGEST = 16 * 1024 * 1024
"""Bytes after which a line ends without its line break: no callback makes a longer one."""


class Block(NamedTuple):
    """Bytes of the file from the offset `at`; with zeros for the pages that cannot be read."""

    at: int
    content: bytes
    whole: bool = True


class Line(NamedTuple):
    """A line with its line break; `whole` unless a page of it could not be read."""

    content: bytes
    whole: bool


def blocks(descriptor: int, start: int, end: int, *, skip: bool) -> Iterator[Block]:
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


def lines(descriptor: int, start: int, end: int, *, skip: bool) -> Iterator[Line]:
    """The lines from `start` to `end`, the last one with or without its line break."""
    rest, whole = b"", True
    for block in blocks(descriptor, start, end, skip=skip):
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


def _block(descriptor: int, at: int, size: int, *, skip: bool) -> Block:
    try:
        return Block(at, os.pread(descriptor, size, at))
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
    return Block(at, content, whole=None not in pages)


def _page(descriptor: int, at: int, size: int) -> bytes | None:
    """None where the disk cannot read it."""
    try:
        return os.pread(descriptor, size, at)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return None
