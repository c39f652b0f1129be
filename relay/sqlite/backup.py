"""The backup: a copy of the store that is whole, checked and on disk before it has its name.

What waits in the spill was acknowledged, too. It goes into a table of the copy's own, from which
a restore puts it back into the spill.
"""

import contextlib
import fcntl
import filecmp
import io
import itertools
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import apsw

from relay import folder
from relay.sqlite import rows
from relay.store import StoreError
from relay.units import size_text

PAGES = 256
"""So many are copied and brought to disk at a time: one great flush would hold up the ingress."""

LINES = 1_000
"""So many of the spill go the same way at a time."""

PRAGMAS = (
    "journal_mode = OFF",  # the file has its name when it is whole
    "synchronous = OFF",  # _copy itself brings it to disk
    "cache_size = 16",  # pages are written as they come, and not all at the end
)

RESERVE = 64 * 1024**2
"""Bytes that a copy leaves free on the store's own disk, for the callbacks that come meanwhile."""

log = logging.getLogger("relay.store")

Progress = Callable[[int, int], None]
"""Told how many pages of how many are copied."""


def back_up(
    source: apsw.Connection, target: Path, spill: Path, progress: Progress = lambda *_: None
) -> None:
    """Copy the store and its spill, as they are at this moment, to a new file.

    Others may write to both meanwhile. Raises StoreError or OSError, and leaves nothing behind
    then.
    """
    if target.exists():
        raise FileExistsError(f"{target} is there already, and is not overwritten")
    # The spill is opened first: what comes home after that is in the open file still.
    with _opened(spill) as lines, copied(source, target, progress, lines) as partial:
        try:
            _name(partial, target)
        except FileExistsError:  # since a moment ago
            raise FileExistsError(f"{target} is there already, and is not overwritten") from None


def back_up_before(source: apsw.Connection, store: Path, schema: int) -> Path:
    """Copy the store before it gets this schema; the copy's name.

    A copy of the same content is taken for this one: a migration may be killed many times. One
    that differs stays as it is, and this one gets a number behind its name.
    """
    target = before_schema(store, schema)
    log.warning("the store (%s) is copied before it changes", size_text(space_needed(source)))
    try:
        with copied(source, target) as partial:
            for name in _names(target):
                with contextlib.suppress(FileExistsError):
                    _name(partial, name)
                    return name
                if filecmp.cmp(partial, name, shallow=False):
                    return name
    except (StoreError, OSError) as error:
        raise StoreError(f"the store is not changed without a copy: {error}") from error
    raise AssertionError("numbers do not end")


def before_schema(store: Path, schema: int) -> Path:
    """Where the copy stands that was made before the store got this schema."""
    return store.with_name(f"{store.name}.before-schema-{schema}")


def copies_beside(store: Path) -> list[Path]:
    """What migrations and restores left as it was, the oldest first."""
    ends = ("before-schema-*", "replaced-*")
    found = [path for end in ends for path in store.parent.glob(f"{store.name}.{end}")]
    return sorted(found, key=lambda path: path.stat().st_mtime)


def spilled(copy: apsw.Connection) -> Iterator[bytes]:
    """The lines that waited in the spill when the copy was made."""
    if rows.every(copy, "SELECT 1 FROM sqlite_schema WHERE name = 'spilled'"):
        for (line,) in copy.execute("SELECT line FROM spilled ORDER BY rowid"):
            yield line


def space_needed(source: apsw.Connection) -> int:
    """The bytes of a copy."""
    pages: int = rows.value(source, "PRAGMA page_count")
    return pages * int(rows.value(source, "PRAGMA page_size"))


@contextlib.contextmanager
def copied(
    source: apsw.Connection,
    target: Path,
    progress: Progress = lambda *_: None,
    lines: BinaryIO | None = None,
) -> Iterator[Path]:
    """A whole copy, on disk, under a name of its own; what the block does not rename is removed.

    With the `lines` of a spill. Raises StoreError or OSError.
    """
    lines = lines or io.BytesIO()
    _check_space(space_needed(source) + _size(lines), source, target.parent)
    with _partial(target) as (partial, descriptor):
        try:
            _copy(source, partial, descriptor, progress, lines)
        except apsw.FullError:
            raise StoreError(f"{target} cannot be made: the disk is full") from None
        except apsw.Error as error:
            raise StoreError(f"{target} cannot be made: {error}") from error
        os.fsync(descriptor)
        yield partial
        folder.sync(target.parent)


def _opened(spill: Path) -> BinaryIO:
    """Its lines; none where there is none."""
    try:
        return spill.open("rb")
    except FileNotFoundError:
        return io.BytesIO()


def _size(file: BinaryIO) -> int:
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    return size


@contextlib.contextmanager
def _partial(target: Path) -> Iterator[tuple[Path, int]]:
    """An empty file beside the target, for nobody else's eyes. One that a kill left is used again.

    Its descriptor stays open until all is done: to close it would drop SQLite's locks.
    """
    partial = target.with_name(f".{target.name}.partial")
    descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreError(f"{target} is being made by another process") from None
        try:
            os.truncate(descriptor, 0)
            yield partial, descriptor
        finally:
            partial.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def _copy(
    source: apsw.Connection,
    partial: Path,
    descriptor: int,
    progress: Progress,
    lines: BinaryIO,
) -> None:
    with contextlib.closing(apsw.Connection(str(partial))) as copy:
        for pragma in PRAGMAS:
            rows.every(copy, f"PRAGMA {pragma}")
        with _moment(source), copy.backup("main", source, "main") as backup:
            while not backup.done:
                backup.step(PAGES)
                os.fdatasync(descriptor)
                progress(backup.page_count - backup.remaining, backup.page_count)
        rows.every(copy, "PRAGMA journal_mode = DELETE")  # one file, with nothing beside it
        rows.every(copy, "PRAGMA journal_mode = OFF")
        rows.every(copy, "DROP TABLE IF EXISTS spilled")  # of a backup that is put back
        _put_spilled(lines, copy, descriptor)
        found = rows.value(copy, "PRAGMA integrity_check(1)")
        if found != "ok":
            raise StoreError(f"the store is damaged: {found}")


def _put_spilled(lines: BinaryIO, copy: apsw.Connection, descriptor: int) -> None:
    whole = ((line,) for line in lines if line.endswith(b"\n"))  # the last may be in the making
    while some := list(itertools.islice(whole, LINES)):
        with copy:
            rows.every(copy, "CREATE TABLE IF NOT EXISTS spilled (line BLOB NOT NULL) STRICT")
            copy.executemany("INSERT INTO spilled VALUES (?)", some)
        os.fdatasync(descriptor)


@contextlib.contextmanager
def _moment(source: apsw.Connection) -> Iterator[None]:
    """Have all reads in the block see the store as it is now; else each commit begins it anew."""
    rows.every(source, "BEGIN")
    try:
        rows.every(source, "SELECT 1 FROM sqlite_schema")
        yield
    finally:
        rows.every(source, "ROLLBACK")


def _check_space(needed: int, source: apsw.Connection, place: Path) -> None:
    if Path(source.filename).stat().st_dev == place.stat().st_dev:
        needed += RESERVE
    free = shutil.disk_usage(place).free
    if free < needed:
        raise StoreError(
            f"{place} has {size_text(free)} free, and a copy of the store needs"
            f" {size_text(needed)}: make room there"
        )


def _names(target: Path) -> Iterator[Path]:
    yield target
    for number in itertools.count(1):
        yield target.with_name(f"{target.name}.{number}")


def _name(partial: Path, target: Path) -> None:
    """Give the copy its name. Raises FileExistsError where that is taken."""
    try:
        target.hardlink_to(partial)
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        if target.exists():
            raise FileExistsError(target) from None
        partial.rename(target)
