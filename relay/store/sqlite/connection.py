"""Opening the file: the lock, the pragmas, the schema."""

import contextlib
import fcntl
import logging
import os
import secrets
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import IO

import apsw

from relay import fsutil
from relay.store import StoreError, StoreLocked, StoreNewer
from relay.store.sqlite import backup, descriptors

log = logging.getLogger("relay.store")

OLDEST_SQLITE = 3_051_003
"""Older ones can lose commits when a log is reset (sqlite.org/wal.html#walresetbug)."""

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
READER_PRAGMAS = (
    "query_only = ON",
    "wal_autocheckpoint = 0",  # only the writer checkpoints
    "cache_size = -4096",
    "busy_timeout = 5000",
)


WITH_SECRETS = 4
"""The schema that keeps secrets, of accounts; before it, a store could be read by its group."""

PIECE = 1 << 20
"""Bytes of the log that are in memory at once."""


def lock(path: Path, kept: int | None = None) -> IO[bytes]:
    """Own the store at `path` until the returned file is closed. Raises StoreLocked.

    `kept` is the descriptor of a lock that is held already; one of another store is let go.
    """
    fsutil.make(path.parent)
    file = open(f"{path}.lock", "ab", opener=fsutil.private)  # noqa: SIM115  held for the store's life
    if kept is not None:
        if os.path.sameopenfile(kept, file.fileno()):
            file.close()
            return os.fdopen(kept, "ab")
        os.close(kept)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise StoreLocked(
            f"{path} is in use by another relay process: stop that first, or name another `store`"
        ) from None
    return file


def connect_writer(path: Path, vfs: str | None = None) -> apsw.Connection:
    """Open the writing connection and bring the schema up to date. Raises StoreError."""
    if sqlite_number() < OLDEST_SQLITE:
        raise StoreError(f"SQLite {apsw.sqlite_lib_version()} has a bug that loses commits")
    if not path.exists():
        os.close(fsutil.private(str(path), os.O_CREAT | os.O_WRONLY))
    connection = descriptors.connect(path, vfs=vfs)
    if not path.stat().st_size:
        _configure(connection, NEW_FILE_PRAGMAS)
    _configure(connection, WRITER_PRAGMAS)
    harden(connection, path)
    migrate(connection, path)
    return connection


def harden(connection: apsw.Connection, path: Path) -> None:
    """Write the log that was left once more, as it is, and sync it. Raises OSError.

    After a sync that failed, the system shows what is not on the disk, and takes it for written:
    to sync it again does nothing. But what is read from here on is to be there after a power cut.
    A checkpoint in its place would change the file while its log is not on the disk.
    """
    log = path.with_name(f"{path.name}-wal")
    if not log.exists() or not log.stat().st_size:
        return
    connection.execute("BEGIN IMMEDIATE").fetchall()  # so that nobody else writes to the log
    try:
        with log.open("r+b", buffering=0) as file:
            at = 0
            while piece := os.pread(file.fileno(), PIECE, at):
                at += os.pwrite(file.fileno(), piece, at)
            os.fdatasync(file.fileno())
    finally:
        connection.execute("ROLLBACK").fetchall()


def connect_reader(path: Path, vfs: str | None = None) -> apsw.Connection:
    """Open a connection that can only read."""
    connection = descriptors.connect(path, flags=apsw.SQLITE_OPEN_READWRITE, vfs=vfs)
    if vfs == descriptors.NAME:  # without others there is no need to share the log's index
        _configure(connection, ("locking_mode = EXCLUSIVE",))
    _configure(connection, READER_PRAGMAS)
    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    return connection


def look_into(path: Path) -> apsw.Connection:
    """Open a store to read it, whoever owns it. Raises StoreError where there is none."""
    if not path.exists():
        raise StoreError(f"there is no store {path}")
    return _looked_into(path, path)


@contextlib.contextmanager
def look_into_held(path: Path) -> Iterator[Callable[[], apsw.Connection]]:
    """Open the files of a store now, to read them in the block, maybe as another user by then.

    Raises OSError, and StoreError when the connection is made.
    """
    with descriptors.held(path) as name:
        yield lambda: _looked_into(path, Path(name), descriptors.NAME)


def _looked_into(path: Path, place: Path, vfs: str | None = None) -> apsw.Connection:
    try:
        connection = connect_reader(place, vfs)
        if connection.execute("PRAGMA user_version").get:
            return connection
    except apsw.Error as error:
        raise StoreError(f"{path} cannot be read: {error}") from error
    raise StoreError(f"{path} is no store")


def migrate(connection: apsw.Connection, path: Path) -> None:
    """Apply the numbered migrations that the file lacks, each in a transaction of its own.

    A store that holds something is copied first. Raises StoreNewer where the file is ahead of
    this release, and StoreError where there is no room for the copy.
    """
    version = connection.execute("PRAGMA user_version").get
    scripts = migrations()
    if version > len(scripts):
        raise StoreNewer(
            f"the store has schema {version}, this release knows {len(scripts)}: run the newer"
            f" release, or restore {backup.before_schema(path, len(scripts) + 1)}"
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
    """Have nobody but its owner read the store; whoever opens it to more later, may."""
    for end in ("", "-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + end).chmod(0o600)


def migrations() -> list[str]:
    """The scripts of schema/, in the order of their numbers."""
    scripts = resources.files("relay.store.sqlite") / "schema"
    return [
        file.read_text(encoding="utf-8")
        for file in sorted(scripts.iterdir(), key=lambda file: file.name)
        if file.name.endswith(".sql")
    ]


def _configure(connection: apsw.Connection, pragmas: tuple[str, ...]) -> None:
    for pragma in pragmas:
        connection.execute(f"PRAGMA {pragma}").fetchall()


def sqlite_number() -> int:
    """The version of SQLite in one number, as it counts itself."""
    major, minor, patch = (int(part) for part in apsw.sqlite_lib_version().split(".")[:3])
    return major * 1_000_000 + minor * 1_000 + patch
