"""Erasure: a contact's rows go from the files, and its number from the rows of others."""

import os
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import relay

from .journal import sync_folder
from .paths import EXPRESSION
from .rows import ATTRIBUTES, DATA

UNFINISHED = ".erasing"
LONGEST_RECORD = 1 << 20
"""The most bytes of a row; a longer one has a quote that was not closed."""
LABEL = r"(?:\.\d{4}-\d\d(?:-\d\d(?:T\d\d)?)?\.\d{4,})?"
EXPRESSIONS = re.compile(r"\{\{.*?\}\}|\{%.*?%\}|\{#.*?#\}", re.DOTALL)
# A possessive pattern: it keeps no way back for each character, so a long cell takes no time.
CELL = re.compile(rb'(?:\A|,)(?:"((?:[^"]++|"")*+)"|([^",\r\n]*+))')
DEFAULT = [name.encode() for name in (*ATTRIBUTES, *DATA)]
MOBILE = DEFAULT.index(b"mobile")


@dataclass(slots=True)
class Cleared:
    records: int = 0
    mentions: int = 0
    left: list[str] = field(default_factory=list)


def files_of(place: Path, template: str) -> list[Path]:
    """The files in the folder that the template may have named, put away ones included."""
    static = EXPRESSION.split(template)[0]
    rest = template[static.rfind("/") + 1 :]
    head, dot, tail = rest.rpartition(".")
    if not dot or "/" in tail or "}" in tail:
        head, dot, tail = rest, "", ""
    pattern = re.compile(f"{_pattern(head)}{LABEL}{re.escape(dot)}{_pattern(tail)}", re.DOTALL)
    return sorted(
        path
        for path in place.rglob("*")
        if pattern.fullmatch(relay.path_as_utf8(path.relative_to(place)))
        and path.is_file()
        and _is_ours(path)
    )


def remove_unfinished(place: Path) -> None:
    """Remove what an erasure that died has left: its file may be called otherwise since."""
    for path in place.rglob(f".*{UNFINISHED}"):
        path.unlink(missing_ok=True)


def _is_ours(path: Path) -> bool:
    """Whether it begins as every file of this plugin does: a template may fit other files, too."""
    with path.open("rb") as file:
        return file.read(16).lstrip(b'"').startswith((b"id", b"event_id"))


def _pattern(template: str) -> str:
    return ".*".join(re.escape(part) for part in EXPRESSIONS.split(template))


def clear(
    path: Path, matcher: relay.NumberMatcher, ids: Collection[bytes], cleared: Cleared
) -> None:
    """Rewrite the file without the contact's rows; one that need not change stays as it is.

    Raises OSError.
    """
    new = path.with_name(f".{path.name}{UNFINISHED}")
    found = Cleared()
    new.unlink(missing_ok=True)
    with path.open("rb") as old:
        status = os.fstat(old.fileno())
        try:
            with open(new, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
                file.writelines(_without(old, matcher, ids, found))
                os.fchmod(file.fileno(), status.st_mode & 0o777)
                file.flush()
                os.fsync(file.fileno())
            if found.records or found.mentions:
                os.utime(new, ns=(status.st_atime_ns, status.st_mtime_ns))
                new.replace(path)
        finally:
            new.unlink(missing_ok=True)
    sync_folder(path.parent)
    cleared.records += found.records
    cleared.mentions += found.mentions


def _without(
    file: BinaryIO, matcher: relay.NumberMatcher, ids: Collection[bytes], found: Cleared
) -> Iterator[bytes]:
    """The records that stay, as they are to be."""
    default = False
    for number, record in enumerate(records(file)):
        default = default if number else _cells(record) == DEFAULT
        if _is_contacts(record, matcher, ids, default=default):
            found.records += 1
        elif matcher.within(record):
            found.mentions += 1
            yield matcher.blacked(record)
        else:
            yield record


def _is_contacts(
    record: bytes, matcher: relay.NumberMatcher, ids: Collection[bytes], *, default: bool
) -> bool:
    """Whether a row is the contact's: if no column is known to hold the number, any cell may."""
    if record.partition(b",")[0].strip(b'"\r\n') in ids:
        return True
    if not matcher.may_be_in(record):
        return False
    cells = _cells(record)
    if default and len(cells) == len(DEFAULT):
        return matcher.is_whole(cells[MOBILE])
    return any(map(matcher.is_whole, cells))


def _cells(record: bytes) -> list[bytes]:
    return [quoted or plain for quoted, plain in CELL.findall(record)]


def records(file: BinaryIO) -> Iterator[bytes]:
    """Record by record, line breaks within quotes included.

    Where a quote is not closed, each line counts as one: the file was edited.
    """
    held: list[bytes] = []
    quotes = size = 0
    for line in file:
        held.append(line)
        quotes += line.count(b'"')
        size += len(line)
        if quotes % 2 == 0:
            yield b"".join(held)
        elif size > LONGEST_RECORD:
            yield from held
        else:
            continue
        held, quotes, size = [], 0, 0
    yield from held
