"""Opening the database file: the lock, the connections, and a VFS over files that are open already.

Root opens a file that another user may have written, gives up its rights, and only then lets
SQLite read it, by its descriptor. SQLite opens nothing by a name then, such as a journal that
another user has put beside the file.
"""

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import apsw

from relay import fsutil
from relay.fsutil import path_as_utf8
from relay.state_directory import WAL, StateDirectory, database_files, wal
from relay.store import StoreError, StoreLocked

OLDEST_SQLITE = 3_051_003
"""Older ones can lose commits when a log is reset (sqlite.org/wal.html#walresetbug)."""

READER_PRAGMAS = (
    "query_only = ON",
    "wal_autocheckpoint = 0",  # only the writer checkpoints
    "cache_size = -4096",
    "busy_timeout = 5000",
)

DESCRIPTORS_VFS = "relay-descriptors"
FILES = Path("/proc/self/fd")
SECTOR = 4096
LONGEST_PATH = 504
"""Bytes: SQLite's 512 without the end that names the journal."""
CREATE = apsw.SQLITE_OPEN_CREATE
WRITING = apsw.SQLITE_OPEN_READWRITE | CREATE


def lock(path: Path, kept: int | None = None) -> IO[bytes]:
    """Own the store at `path` until the returned file is closed. Raises StoreLocked.

    `kept` is the descriptor of a lock that is held already; one of another store is let go.
    """
    fsutil.make(path.parent)
    file = open(  # noqa: SIM115  held for the store's life
        StateDirectory.around(path).lock, "ab", opener=fsutil.private
    )
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


def connect_reader(path: Path, vfs: str | None = None) -> apsw.Connection:
    """Open a connection that can only read."""
    connection = connect(path, flags=apsw.SQLITE_OPEN_READWRITE, vfs=vfs)
    if vfs == DESCRIPTORS_VFS:  # without others there is no need to share the log's index
        configure(connection, ("locking_mode = EXCLUSIVE",))
    configure(connection, READER_PRAGMAS)
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
    with opened_files(path) as name:
        yield lambda: _looked_into(path, Path(name), DESCRIPTORS_VFS)


def _looked_into(path: Path, place: Path, vfs: str | None = None) -> apsw.Connection:
    try:
        connection = connect_reader(place, vfs)
        if connection.execute("PRAGMA user_version").get:
            return connection
    except apsw.Error as error:
        raise StoreError(f"{path} cannot be read: {error}") from error
    raise StoreError(f"{path} is no store")


def configure(connection: apsw.Connection, pragmas: tuple[str, ...]) -> None:
    for pragma in pragmas:
        connection.execute(f"PRAGMA {pragma}").fetchall()


def sqlite_number() -> int:
    """The version of SQLite in one number, as it counts itself."""
    major, minor, patch = (int(part) for part in apsw.sqlite_lib_version().split(".")[:3])
    return major * 1_000_000 + minor * 1_000 + patch


def connect(path: Path, vfs: str | None = None, flags: int = WRITING) -> apsw.Connection:
    """A connection to a database by its name. Raises apsw.CantOpenError for what is no file.

    SQLite would wait for ever for a pipe in place of its journal to be written to.
    """
    for file in database_files(path):
        if file.exists() and not file.is_file():
            raise apsw.CantOpenError(f"{file} is no plain file")
    try:
        return apsw.Connection(path_as_utf8(path), flags=flags, vfs=vfs)
    except UnicodeEncodeError:
        raise apsw.CantOpenError("its path is not UTF-8, which SQLite needs") from None
    except apsw.CantOpenError:
        if len(os.fsencode(path.resolve())) <= LONGEST_PATH:
            raise
        raise apsw.CantOpenError(f"SQLite takes paths of up to {LONGEST_PATH} bytes") from None


@contextlib.contextmanager
def connect_opened(descriptor: int) -> Iterator[apsw.Connection]:
    """A connection to the database in an open file, to read and to write it."""
    name = str(FILES / str(descriptor))
    VFS.files[name] = descriptor
    try:
        with contextlib.closing(apsw.Connection(name, vfs=DESCRIPTORS_VFS)) as connection:
            yield connection
    finally:
        del VFS.files[name]


@contextlib.contextmanager
def opened_files(path: Path) -> Iterator[str]:
    """The database at `path`, opened to be read; the name by which SQLite finds it.

    With the log that belongs to it. Raises OSError.
    """
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(fsutil.reading(path))
        name = str(FILES / str(file.fileno()))
        try:
            log = fsutil.reading(wal(path))
        except FileNotFoundError:
            log = os.fdopen(os.memfd_create("no log"), "rb")
        stack.enter_context(log)
        VFS.files |= {name: file.fileno(), name + WAL: log.fileno()}
        try:
            yield name
        finally:
            del VFS.files[name], VFS.files[name + WAL]


class OpenFile:
    """A file as SQLite uses it. It is not locked: no other process writes to it."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def xRead(self, amount: int, offset: int) -> bytes:  # noqa: N802  as apsw calls it; so below
        return os.pread(self._descriptor, amount, offset)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        left = memoryview(data)
        while left:
            written = os.pwrite(self._descriptor, left, offset)
            left, offset = left[written:], offset + written

    def xTruncate(self, size: int) -> None:  # noqa: N802
        os.ftruncate(self._descriptor, size)

    def xFileSize(self) -> int:  # noqa: N802
        return os.fstat(self._descriptor).st_size

    def xSync(self, _: int) -> None:  # noqa: N802
        os.fdatasync(self._descriptor)

    def xLock(self, _: int) -> None: ...  # noqa: N802

    def xUnlock(self, _: int) -> None: ...  # noqa: N802

    def xCheckReservedLock(self) -> bool:  # noqa: N802
        return False

    def xFileControl(self, *_: int) -> bool:  # noqa: N802
        return False

    def xSectorSize(self) -> int:  # noqa: N802
        return SECTOR

    def xDeviceCharacteristics(self) -> int:  # noqa: N802
        return 0

    def xClose(self) -> None: ...  # noqa: N802


class Descriptors(apsw.VFS):
    """Open files by names that no folder has."""

    def __init__(self) -> None:
        self.files: dict[str, int] = {}
        super().__init__(DESCRIPTORS_VFS, "")

    def xFullPathname(self, name: str) -> str:  # noqa: N802
        return name

    def xAccess(self, pathname: str, _: int) -> bool:  # noqa: N802
        return pathname in self.files

    def xOpen(self, name: object, flags: list[int]) -> OpenFile:  # type: ignore[override]  # noqa: N802
        known = name.filename() if isinstance(name, apsw.URIFilename) else name
        if known not in self.files:
            raise apsw.CantOpenError(f"{known} is not open")
        writable = os.O_RDWR & fcntl.fcntl(self.files[known], fcntl.F_GETFL)
        flags[1] = flags[0] if writable else flags[0] & ~WRITING | apsw.SQLITE_OPEN_READONLY
        return OpenFile(self.files[known])


VFS = Descriptors()
