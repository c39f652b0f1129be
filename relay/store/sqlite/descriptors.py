"""SQLite's files, by their names or open already, for a user who may not open them by their names.

Root opens such a file, and gives up its rights before SQLite reads what others have written.
SQLite opens nothing by a name then, such as a journal that another user has put beside the file.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import apsw

from relay import fsutil
from relay.fsutil import path_as_utf8

NAME = "relay-descriptors"
FILES = Path("/proc/self/fd")
LOG = "-wal"
SECTOR = 4096
LONGEST_PATH = 504
"""Bytes: SQLite's 512 without the end that names the journal."""
CREATE = apsw.SQLITE_OPEN_CREATE
WRITING = apsw.SQLITE_OPEN_READWRITE | CREATE
ENDS = ("", LOG, "-shm", "-journal")


def connect(path: Path, vfs: str | None = None, flags: int = WRITING) -> apsw.Connection:
    """A connection to a database by its name. Raises apsw.CantOpenError for what is no file.

    SQLite would wait for ever for a pipe in place of its journal to be written to.
    """
    for end in ENDS:
        file = path.with_name(path.name + end)
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
def connected(descriptor: int) -> Iterator[apsw.Connection]:
    """A connection to the database in an open file, to read and to write it."""
    name = str(FILES / str(descriptor))
    VFS.files[name] = descriptor
    try:
        with contextlib.closing(apsw.Connection(name, vfs=NAME)) as connection:
            yield connection
    finally:
        del VFS.files[name]


@contextlib.contextmanager
def held(path: Path) -> Iterator[str]:
    """The database at `path`, opened to be read; the name by which SQLite finds it.

    With the log that belongs to it. Raises OSError.
    """
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(fsutil.reading(path))
        name = str(FILES / str(file.fileno()))
        try:
            log = fsutil.reading(path.with_name(path.name + LOG))
        except FileNotFoundError:
            log = os.fdopen(os.memfd_create("no log"), "rb")
        stack.enter_context(log)
        VFS.files |= {name: file.fileno(), name + LOG: log.fileno()}
        try:
            yield name
        finally:
            del VFS.files[name], VFS.files[name + LOG]


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
        super().__init__(NAME, "")

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
