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
from functools import partial
from pathlib import Path
from typing import BinaryIO

import apsw

from relay import fsutil
from relay.fsutil import path_from_utf8
from relay.state_directory import StateDirectory
from relay.store import StoreError
from relay.store.sqlite import rows
from relay.store.sqlite.connection import connect, connect_opened
from relay.units import size_text

PAGES = 256
"""So many are copied and brought to disk at a time: one great flush would hold up the ingress."""

LINES = 1_000
"""So many of the spill go the same way at a time."""

PRAGMAS = (
    "journal_mode = OFF",  # the file has its name when it is whole
    "synchronous = OFF",  # _copy itself brings it to disk
    "cache_size = 16",  # pages are written as they come, and not all at the end
    "temp_store = MEMORY",
)

ROLLBACK, JOURNAL_MODE = b"\1\1", 18
"""The bytes of a database's header, and their position, if it has no log."""

MAKING = ".{}.partial"
"""What a copy is called while it is made."""

RESERVE = 64 * 1024**2
"""Bytes that a copy leaves free on the store's own disk, for the callbacks that come meanwhile."""

log = logging.getLogger("relay.store")

PageProgress = Callable[[int, int], None]
"""Called with how many pages of how many are copied."""

Connect = Callable[[], contextlib.AbstractContextManager[apsw.Connection]]


class Partial:
    """A copy that is being made beside its target, under a name that says so.

    Its folder stays open, and so does the file: wherever the path to them leads by then.
    """

    def __init__(self, place: int, target: Path) -> None:
        self._place = place
        self._name = MAKING.format(target.name)
        self.target = target
        self.path = target.with_name(self._name)
        self._remove_old()
        self.descriptor = fsutil.new(self._name, place, 0o600)
        try:
            self._lock(self.descriptor)
            if not self._is_in_place():
                raise self._taken()
        except StoreError:
            os.close(self.descriptor)
            raise

    def connected(self) -> contextlib.closing[apsw.Connection]:
        return contextlib.closing(connect(self.path))

    def take_name(self, name: str) -> None:
        """Get its name, on disk. Raises FileExistsError where that is taken."""
        place = self._place
        try:
            os.link(self._name, name, src_dir_fd=place, dst_dir_fd=place, follow_symlinks=False)
        except FileExistsError:
            raise
        except OSError:  # a file system without links
            if self._found(name) is not None:
                raise FileExistsError(name) from None
            os.rename(self._name, name, src_dir_fd=place, dst_dir_fd=place)
        os.fsync(place)

    def replace(self, name: str) -> None:
        """Take the place of what has that name, on disk."""
        os.rename(self._name, name, src_dir_fd=self._place, dst_dir_fd=self._place)
        os.fsync(self._place)

    def close(self) -> None:
        """Remove the name that it had while it was made."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._name, dir_fd=self._place)
        os.close(self.descriptor)

    def _remove_old(self) -> None:
        """Remove what a kill left."""
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            old = os.open(self._name, flags, dir_fd=self._place)
        except OSError:  # it is not there, or it is no file of this user's
            return
        try:
            self._lock(old)
            os.unlink(self._name, dir_fd=self._place)
        finally:
            os.close(old)

    def _lock(self, descriptor: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise self._taken() from None

    def _is_in_place(self) -> bool:
        """Whether no other process took it for an old one, before it was locked."""
        found = self._found(self._name)
        return found is not None and os.path.samestat(found, os.fstat(self.descriptor))

    def _found(self, name: str) -> os.stat_result | None:
        try:
            return os.stat(name, dir_fd=self._place, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def _taken(self) -> StoreError:
        return StoreError(f"{self.target} is being made by another process")


def back_up(
    source: apsw.Connection, target: Path, spill: Path, progress: PageProgress = lambda *_: None
) -> None:
    """Copy the store and its spill, as they are at this moment, to a new file.

    Others may write to both meanwhile. Raises StoreError or OSError, and leaves nothing behind
    then.
    """
    with new_copy(target) as copy:
        fill(copy, source, spill, progress)


@contextlib.contextmanager
def new_copy(target: Path) -> Iterator[Partial]:
    """An empty file that is `target` once the block, which fills it, ends well.

    Root's, if root makes it, whoever fills it. Raises FileExistsError, StoreError or OSError.
    """
    if os.path.lexists(target):
        raise FileExistsError(f"{target} is there already, and is not overwritten")
    with _partial(target) as copy:
        yield copy
        try:
            copy.take_name(target.name)
        except FileExistsError:  # since a moment ago
            raise FileExistsError(f"{target} is there already, and is not overwritten") from None


def fill(
    copy: Partial, source: apsw.Connection, spill: Path, progress: PageProgress = lambda *_: None
) -> None:
    """Copy the store and its spill, checked and on disk, by the copy's descriptor alone."""
    # The spill is opened first: what comes home after that is in the open file still.
    with _opened(spill) as lines:
        _copy(source, copy, partial(connect_opened, copy.descriptor), progress, lines)


def back_up_before(source: apsw.Connection, store: Path, schema: int) -> Path:
    """Copy the store before it gets this schema; the copy's name.

    A copy of the same content is taken for this one: a migration may be killed many times. One
    that differs stays as it is, and this one gets a number behind its name.
    """
    target = StateDirectory.around(store).before_schema(schema)
    log.warning("the store (%s) is copied before it changes", size_text(space_needed(source)))
    try:
        with copied(source, target) as copy:
            for name in _names(target):
                with contextlib.suppress(FileExistsError):
                    copy.take_name(name.name)
                    return name
                if filecmp.cmp(copy.path, name, shallow=False):
                    return name
    except (StoreError, OSError) as error:
        raise StoreError(f"the store is not changed without a copy: {error}") from error
    raise AssertionError("numbers do not end")


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
def copied(source: apsw.Connection, target: Path) -> Iterator[Partial]:
    """A complete copy on disk under a temporary name, removed unless the block renames it.

    Raises StoreError or OSError.
    """
    with _partial(target) as copy:
        # Not by its descriptor: then each page would wait for Python, which is busy with callbacks.
        _copy(source, copy, copy.connected, lambda *_: None, io.BytesIO())
        yield copy


@contextlib.contextmanager
def _partial(target: Path) -> Iterator[Partial]:
    with fsutil.opened(target.parent) as place, contextlib.closing(Partial(place, target)) as copy:
        yield copy


def _opened(spill: Path) -> BinaryIO:
    """Its lines; none where there is none."""
    try:
        return fsutil.reading(spill)
    except FileNotFoundError:
        return io.BytesIO()


def _size(file: BinaryIO) -> int:
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    return size


def _copy(
    source: apsw.Connection,
    copy: Partial,
    connected: Connect,
    progress: PageProgress,
    lines: BinaryIO,
) -> None:
    """Copy it whole, checked, on disk."""
    _check_space(space_needed(source) + _size(lines), source, copy)
    try:
        with connected() as connection:
            _copy_pages(source, connection, copy.descriptor, progress)
        # One file, with nothing beside it: these numbers said that it has a log.
        os.pwrite(copy.descriptor, ROLLBACK, JOURNAL_MODE)
        with connected() as connection:
            _finish(connection, copy.descriptor, lines)
    except apsw.FullError:
        raise StoreError(f"{copy.target} cannot be made: the disk is full") from None
    except apsw.Error as error:
        raise StoreError(f"{copy.target} cannot be made: {error}") from error
    os.fsync(copy.descriptor)


def _copy_pages(
    source: apsw.Connection, copy: apsw.Connection, descriptor: int, progress: PageProgress
) -> None:
    _configure(copy)
    with _moment(source), copy.backup("main", source, "main") as backup:
        while not backup.done:
            backup.step(PAGES)
            os.fdatasync(descriptor)
            progress(backup.page_count - backup.remaining, backup.page_count)


def _finish(copy: apsw.Connection, descriptor: int, lines: BinaryIO) -> None:
    _configure(copy)
    rows.every(copy, "DROP TABLE IF EXISTS spilled")  # of a backup that is put back
    _put_spilled(lines, copy, descriptor)
    found = rows.value(copy, "PRAGMA integrity_check(1)")
    if found != "ok":
        raise StoreError(f"the store is damaged: {found}")


def _configure(copy: apsw.Connection) -> None:
    for pragma in PRAGMAS:
        rows.every(copy, f"PRAGMA {pragma}")


def _put_spilled(lines: BinaryIO, copy: apsw.Connection, descriptor: int) -> None:
    whole = ((line,) for line in lines if line.endswith(b"\n"))  # the last may be in the making
    while some := list(itertools.islice(whole, LINES)):
        with copy:
            rows.every(copy, "CREATE TABLE IF NOT EXISTS spilled (line BLOB NOT NULL) STRICT")
            copy.executemany("INSERT INTO spilled VALUES (?)", some)
        os.fdatasync(descriptor)


@contextlib.contextmanager
def _moment(source: apsw.Connection) -> Iterator[None]:
    """Have all reads in the block see one snapshot; otherwise each commit restarts the backup."""
    rows.every(source, "BEGIN")
    try:
        rows.every(source, "SELECT 1 FROM sqlite_schema")
        yield
    finally:
        rows.every(source, "ROLLBACK")


def _check_space(needed: int, source: apsw.Connection, copy: Partial) -> None:
    if Path(path_from_utf8(source.filename)).stat().st_dev == os.fstat(copy.descriptor).st_dev:
        needed += RESERVE
    free = shutil.disk_usage(copy.descriptor).free
    if free < needed:
        raise StoreError(
            f"{copy.target.parent} has {size_text(free)} free, and a copy of the store needs"
            f" {size_text(needed)}: make room there"
        )


def _names(target: Path) -> Iterator[Path]:
    yield target
    for number in itertools.count(1):
        yield target.with_name(f"{target.name}.{number}")
