"""The journal of a set of CSV files: which event ids they hold, and the append in progress.

`Journal` is a small SQLite database beside the files. Without it the files would have to be read
to know the ids. It stays open with an exclusive lock, so only one process writes the set.
`CsvFile` is one file of the set, open and locked for one append.
"""

import contextlib
import fcntl
import json
import os
import zlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import apsw

import relay

SCHEMA = """
CREATE TABLE written (id TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE pending (path TEXT NOT NULL, offset INTEGER NOT NULL, before BLOB NOT NULL,
                      pieces TEXT NOT NULL);
PRAGMA user_version = 1;
"""


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of bytes to be appended: the row of an event, or with an empty `id` the header."""

    id: str
    length: int
    checksum: int


@dataclass(frozen=True, slots=True)
class Append:
    """An announced append: enough to find out afterwards how much of it is in the file.

    `path` is relative to the journal's folder; `before` are the last bytes in front of `offset`.
    """

    path: str
    offset: int
    before: bytes
    pieces: list[Piece]

    @property
    def ids(self) -> set[str]:
        return {piece.id for piece in self.pieces if piece.id}

    @property
    def end(self) -> int:
        return self.offset + sum(piece.length for piece in self.pieces)


class Journal:
    """Open from the start; raises apsw.BusyError while another process holds it."""

    def __init__(self, path: Path) -> None:
        create(path)
        self._db = apsw.Connection(relay.path_as_utf8(path))
        try:
            self._prepare()
        except apsw.Error:
            self._db.close()
            raise

    def _prepare(self) -> None:
        # Exclusive from the first transaction until close, or the end of the process.
        self._db.pragma("locking_mode", "EXCLUSIVE")
        self._db.pragma("journal_mode", "WAL")
        self._db.pragma("synchronous", "FULL")
        with self._transaction("EXCLUSIVE"):
            if not self._db.pragma("user_version"):
                self._db.execute(SCHEMA).fetchall()

    def known(self, ids: Iterable[str]) -> set[str]:
        """Those of the ids that are written."""
        query = "SELECT id FROM written WHERE id IN (SELECT value FROM json_each(?))"
        return {found for (found,) in self._db.execute(query, (json.dumps(list(ids)),))}

    def announce(self, append: Append) -> None:
        """Count the ids as written, as long as the append is not taken back. On disk."""
        with self._transaction():
            self._db.executemany("INSERT INTO written VALUES (?)", ((i,) for i in append.ids))
            pieces = [(piece.id, piece.length, piece.checksum) for piece in append.pieces]
            self._db.execute(
                "INSERT INTO pending VALUES (?, ?, ?, ?)",
                (append.path, append.offset, append.before, json.dumps(pieces)),
            )

    def finish(self) -> None:
        """The announced append is in the file.

        This need not wait for the disk: after a power cut the append is looked at once more.
        """
        self._db.pragma("synchronous", "NORMAL")
        try:
            with self._transaction():
                self._db.execute("DELETE FROM pending")
        finally:
            self._db.pragma("synchronous", "FULL")

    def take_back(self, append: Append, kept: Collection[str] = ()) -> None:
        """The announced append is not in the file, but for the `kept` ids. On disk."""
        with self._transaction():
            lost = ((i,) for i in append.ids.difference(kept))
            self._db.executemany("DELETE FROM written WHERE id = ?", lost)
            self._db.execute("DELETE FROM pending")

    def pending(self) -> Append | None:
        """The append that was under way when the last process ended."""
        row = self._db.execute("SELECT path, offset, before, pieces FROM pending").fetchone()
        if row is None:
            return None
        path, offset, before, pieces = row
        return Append(path, offset, before, [Piece(*piece) for piece in json.loads(pieces)])

    def sync(self) -> None:
        """Have everything on disk, also what `finish` left in the system's hands."""
        self._db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_FULL)

    def scrub(self) -> None:
        """Forget for good what is finished: announcements quote the ends of files."""
        self._db.execute("VACUUM").fetchall()
        self._db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)

    def close(self) -> None:
        with contextlib.suppress(apsw.Error):
            self._db.close()

    @contextlib.contextmanager
    def _transaction(self, kind: str = "IMMEDIATE") -> Iterator[None]:
        self._db.execute(f"BEGIN {kind}")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            # A full disk has rolled it back already.
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise


def create(path: Path) -> None:
    """Make the file, private, if it is missing. One that exists must not even be opened here.

    Closing it again would drop the locks of a journal that this process holds.
    """
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        sync_folder(path.parent)


CONTEXT = 64


class CsvFile:
    """A file to append to. Raises OSError for everything that goes wrong with it."""

    def __init__(self, path: Path, *, create: bool = True) -> None:
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0)
        self._fd = relay.open_private(str(path), flags)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            status = os.fstat(self._fd)
        except OSError:
            os.close(self._fd)
            raise
        self.path = path
        self.size = status.st_size
        self._times = (status.st_atime_ns, status.st_mtime_ns)

    @property
    def changed(self) -> float:
        """When it was last written to, in seconds since the epoch."""
        return self._times[1] / 1e9

    def beginning(self, length: int) -> bytes:
        return os.pread(self._fd, length, 0)

    def context(self, offset: int) -> bytes:
        """The bytes before the offset. If they change, another program has edited the file."""
        start = max(offset - CONTEXT, 0)
        return os.pread(self._fd, offset - start, start)

    def write(self, data: bytes, offset: int) -> None:
        """Write all of it, and return when it is on disk."""
        self._put(data, offset)
        os.fsync(self._fd)

    def cut(self, size: int) -> None:
        """Drop what is behind `size`, and return when that is on disk."""
        os.ftruncate(self._fd, size)
        os.fsync(self._fd)

    def settle(self, append: Append, *, cut: bool = True) -> set[str]:
        """Cut back what an append left behind to its last complete row; return the ids kept.

        Without `cut`, the bytes after that row may be another writer's, and stay.

        The complete ones are written over with themselves: after a failed fsync the system
        takes a page for clean that never reached the disk.
        """
        if self.size < append.offset or self.context(append.offset) != append.before:
            return set()
        kept = set()
        end = append.offset
        for piece in append.pieces:
            data = os.pread(self._fd, piece.length, end)
            if len(data) != piece.length or zlib.crc32(data) != piece.checksum:
                # Bytes beyond the announced ones are another writer's, and are not cut.
                if cut and self.size <= append.end:
                    self.cut(end)
                break
            self._put(data, end)
            end += piece.length
            kept.add(piece.id)
        os.fsync(self._fd)
        # A repair is no reason to call yesterday's file today's.
        os.utime(self._fd, ns=self._times)
        return kept - {""}

    def _put(self, data: bytes, offset: int) -> None:
        view = memoryview(data)
        while view:
            done = os.pwrite(self._fd, view, offset)
            view = view[done:]
            offset += done

    def close(self) -> None:
        os.close(self._fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def pieces(rows: Sequence[tuple[str, bytes]]) -> list[Piece]:
    return [Piece(event_id, len(row), zlib.crc32(row)) for event_id, row in rows]


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to disk. A folder that may not be read cannot be synced."""
    with contextlib.suppress(PermissionError):
        relay.sync_folder(folder)
