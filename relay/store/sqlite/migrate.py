"""Opening the file to write it: its log is made durable, its schema brought up to date."""

import contextlib
import logging
import os
import secrets
from importlib import resources
from pathlib import Path

import apsw

from relay import fsutil
from relay.state_directory import StateDirectory, wal, wal_files
from relay.store import StoreError, StoreNewer
from relay.store.sqlite import backup
from relay.store.sqlite.connection import OLDEST_SQLITE, configure, connect, sqlite_number

log = logging.getLogger("relay.store")

NEW_FILE_PRAGMAS = ("auto_vacuum = INCREMENTAL",)  # else a purge could not shorten the file
WRITER_PRAGMAS = (
    "journal_mode = WAL",
    "synchronous = FULL",  # NORMAL can lose commits that were already acknowledged
    "foreign_keys = OFF",
    "cache_size = -32768",
    "journal_size_limit = 67108864",
    "temp_store = MEMORY",
    "secure_delete = ON",  # what is purged or erased leaves no bytes behind
    "busy_timeout = 5000",  # a backup or a person's sqlite3 may hold the lock for a moment
)

WITH_SECRETS = 4
"""The schema that keeps secrets, of accounts; before it, a store could be read by its group."""

PIECE = 1 << 20
"""Bytes of the log that are in memory at once."""


def connect_writer(path: Path, vfs: str | None = None) -> apsw.Connection:
    """Open the writing connection and bring the schema up to date. Raises StoreError."""
    if sqlite_number() < OLDEST_SQLITE:
        raise StoreError(f"SQLite {apsw.sqlite_lib_version()} has a bug that loses commits")
    if not path.exists():
        os.close(fsutil.private(str(path), os.O_CREAT | os.O_WRONLY))
    connection = connect(path, vfs=vfs)
    if not path.stat().st_size:
        configure(connection, NEW_FILE_PRAGMAS)
    configure(connection, WRITER_PRAGMAS)
    harden(connection, path)
    migrate(connection, path)
    return connection


def harden(connection: apsw.Connection, path: Path) -> None:
    """Write the log that was left once more, as it is, and sync it. Raises OSError.

    After a sync that failed, the system shows what is not on the disk, and takes it for written:
    to sync it again does nothing. But what is read from here on is to be there after a power cut.
    A checkpoint in its place would change the file while its log is not on the disk.
    """
    log = wal(path)
    if not log.exists() or not log.stat().st_size:
        return
    connection.execute("BEGIN IMMEDIATE").fetchall()  # so that no other process writes to the log
    try:
        with log.open("r+b", buffering=0) as file:
            at = 0
            while piece := os.pread(file.fileno(), PIECE, at):
                at += os.pwrite(file.fileno(), piece, at)
            os.fdatasync(file.fileno())
    finally:
        connection.execute("ROLLBACK").fetchall()


def migrate(connection: apsw.Connection, path: Path) -> None:
    """Apply the numbered migrations that the file lacks, each in its own transaction.

    A store that holds something is copied first. Raises StoreNewer where the file is ahead of
    this release, and StoreError where there is no room for the copy.
    """
    version = connection.execute("PRAGMA user_version").get
    scripts = migrations()
    if version > len(scripts):
        raise StoreNewer(
            f"the store has schema {version}, this release knows {len(scripts)}: run the newer"
            f" release, or restore {StateDirectory.around(path).before_schema(len(scripts) + 1)}"
        )
    if 0 < version < len(scripts):
        copy = backup.back_up_before(connection, path, version + 1)
        log.warning("the store gets schema %d; as it was before, it is %s", len(scripts), copy)
    for number, script in enumerate(scripts[version:], start=version + 1):
        with connection:
            connection.execute(script).fetchall()  # read out: statements run lazily
            if number == 1:
                connection.execute(
                    "INSERT INTO meta VALUES ('contact_key', ?)", (secrets.token_bytes(32),)
                )
            connection.execute(f"PRAGMA user_version = {number}").fetchall()
    if version < WITH_SECRETS <= len(scripts):
        _close_to_others(path)


def _close_to_others(path: Path) -> None:
    """Make the store private to its owner, once: its mode may be changed later."""
    for file in (path, *wal_files(path)):
        with contextlib.suppress(FileNotFoundError):
            file.chmod(0o600)


def migrations() -> list[str]:
    """The scripts of schema/, in the order of their numbers."""
    scripts = resources.files("relay.store.sqlite") / "schema"
    return [
        file.read_text(encoding="utf-8")
        for file in sorted(scripts.iterdir(), key=lambda file: file.name)
        if file.name.endswith(".sql")
    ]
