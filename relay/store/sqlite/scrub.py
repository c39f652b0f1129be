"""Scrubbing: nothing of what was deleted stays in the file or in its log.

Deleted rows are overwritten (secure_delete). But where SQLite moves rows from page to page, an
old copy may stay in the unused middle of one; then the whole file is written anew.
"""

import os
from pathlib import Path

import apsw

from relay.redact import LONGEST_NUMBER, NumberMatcher
from relay.store import Scrubbed, StoreError

PIECE = 1 << 16


def empty_log(connection: apsw.Connection) -> None:
    """Take the log into the file, and leave it empty. Raises StoreError where others read it."""
    busy, *_ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()[0]
    if busy:
        raise StoreError("another program reads the store, so its log cannot be emptied")


def write_anew(connection: apsw.Connection) -> None:
    """Write the file anew, with nothing but what is in use. Everything else waits for it."""
    connection.execute("PRAGMA temp_store = FILE").fetchall()
    try:
        connection.execute("VACUUM").fetchall()
    finally:
        connection.execute("PRAGMA temp_store = MEMORY").fetchall()
    empty_log(connection)


def search(connection: apsw.Connection, path: Path, matcher: NumberMatcher) -> Scrubbed:
    """How many pieces of the file hold the number."""
    fd = _descriptor(connection, path)
    found, offset = 0, 0
    while data := os.pread(fd, PIECE + LONGEST_NUMBER, offset):
        found += matcher.within(data)
        offset += PIECE
    return Scrubbed(found, searched=os.fstat(fd).st_size)


def _descriptor(connection: apsw.Connection, path: Path) -> int:
    """SQLite's own descriptor of the file: to close one of ours would drop SQLite's locks."""
    connection.execute("SELECT 1 FROM sqlite_schema").fetchall()  # so that it is open
    wanted = path.stat()
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208  numbers are all that is wanted
        try:
            status = os.fstat(int(name))
        except OSError:
            continue
        if (status.st_dev, status.st_ino) == (wanted.st_dev, wanted.st_ino):
            return int(name)
    raise StoreError("the store's file cannot be searched")
