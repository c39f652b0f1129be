"""The line: how a callback is written into the spill's file, and read from it.

It is the CRC-32 of what follows, and the record as JSON with the callback's bytes as Latin-1.
"""

import itertools
import re
import zlib
from collections.abc import Mapping
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


class Spilled(NamedTuple):
    """A callback in the spill, with the id that its sender was told.

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
    """The record at the beginning of a piece, as a line; behind it may stand a damaged byte."""
    text = piece.removesuffix(b"\n")
    for record in (text, text[:-1], text.rstrip(b"\0")):
        if decode(record) is not None:
            return _ended(record)
    return None


def _ended(line: bytes) -> bytes:
    return line if line.endswith(b"\n") else line + b"\n"


def _known(kind: type[NamedTuple], values: Mapping[str, Any]) -> dict[str, Any]:
    """Without what a later release may have written: the way back is by the spill, too."""
    return {name: value for name, value in values.items() if name in kind._fields}
