"""The ledger: which event ids a set of CSV files holds, and the append that is under way.

The files alone could not say it without being read again. It is a small SQLite database, and
holding it open is what makes this process the only writer of the set.
"""

import contextlib
import json
import os
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import apsw

from relay.path_text import as_utf8

from . import folder

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
    """An append that is announced: enough to tell afterwards how much of it is in the file.

    `path` is relative to the ledger's folder; `before` are the last bytes in front of `offset`.
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


class Ledger:
    """Open from the start; raises apsw.BusyError while another process holds it."""

    def __init__(self, path: Path) -> None:
        create(path)
        self._db = apsw.Connection(as_utf8(path))
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

    Closing it again would drop the locks of a ledger that this process holds.
    """
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        folder.sync(path.parent)
