"""Files and folders: durable names, private files, atomic writes, and paths as text.

A folder may belong to another user than the one who acts in it: root's commands act in the
service's. Such a user can plant links.

Python turns a path's bytes into text by the locale and back, so what the system gets from it is
right. What comes from a file, and what goes into one or to SQLite, is UTF-8 whatever the locale.
"""

import contextlib
import errno
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from relay import ownership

TRIES = 100
"""How often a name is cleared that another process fills again and again."""


def make(folder: Path) -> None:
    """Make a folder and those above it, and see to it that their names are on disk."""
    if folder.is_dir():
        return
    make(folder.parent)
    folder.mkdir(mode=0o750, exist_ok=True)
    with contextlib.suppress(PermissionError):  # one that may not be read cannot be synced
        sync(folder.parent)


def existing(path: Path) -> Path:
    """The path itself or, where it is not there, the nearest folder above it that is."""
    return next(each for each in (path, *path.parents) if each.exists())


def sync(folder: Path) -> None:
    """Bring the names in a folder to disk: of files that were made, renamed or removed there."""
    with opened(folder) as descriptor:
        os.fsync(descriptor)


@contextlib.contextmanager
def opened(folder: Path) -> Iterator[int]:
    """A folder's descriptor, by which its names are reached wherever the path may lead by then."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def private(path: str, flags: int) -> int:
    """An opener for files that hold contacts' data, and for reading them again.

    It opens plain files only, and never blocks, as it would on a pipe. In another user's
    folder root follows no link, and takes no file that has another name, too.
    """
    return _open(path, flags, 0o640)


def reading(path: Path) -> BinaryIO:
    """Such a file, to be read. Raises OSError."""
    return open(path, "rb", opener=private)


def content(path: Path) -> bytes:
    """What is in it. Raises OSError."""
    with reading(path) as file:
        return file.read()


def _open(path: str, flags: int, mode: int) -> int:
    strict = ownership.is_root() and os.stat(os.path.dirname(path) or ".").st_uid != 0  # noqa: PTH116,PTH120
    more = os.O_NONBLOCK | os.O_CLOEXEC | (os.O_NOFOLLOW if strict else 0)
    descriptor = os.open(path, flags & ~os.O_TRUNC | more, mode)
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "this is no plain file", path)
    if strict and found.st_nlink > 1:
        os.close(descriptor)
        raise OSError(errno.EMLINK, "root opens no file here that has another name, too", path)
    if flags & os.O_TRUNC:
        os.ftruncate(descriptor, 0)
    return descriptor


def new(name: str, folder: int, mode: int) -> int:
    """A new, empty, private file in an open folder, opened for reading and writing.

    An entry of that name is removed, never opened: it may be left of a kill, or a planted link.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    for _ in range(TRIES):
        with contextlib.suppress(FileExistsError):
            return os.open(name, flags, mode, dir_fd=folder)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder)
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name)


@contextlib.contextmanager
def replaced(path: Path, mode: int = 0o640) -> Iterator[BinaryIO]:
    """An atomic write: a new private file, which replaces `path` when the block ends without error.

    It is on disk then, whole. Where the block or the disk fails, what was there stays as it is.
    """
    with opened(path.parent) as folder, replaced_in(folder, path.name, mode) as file:
        yield file


@contextlib.contextmanager
def replaced_in(folder: int, name: str, mode: int) -> Iterator[BinaryIO]:
    """The same in an open folder."""
    while_made = f"{name}.new"
    with open(new(while_made, folder, mode), "wb") as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.rename(while_made, name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(while_made, dir_fd=folder)
            raise
    os.fsync(folder)


def path_from_utf8(text: str) -> str:
    """The path that UTF-8 text of a file names."""
    return os.fsdecode(text.encode(errors="surrogateescape"))


def path_as_utf8(path: str | os.PathLike[str]) -> str:
    """The text of a path, for a file or for SQLite. Bytes that are no UTF-8 become surrogates."""
    return os.fsencode(path).decode(errors="surrogateescape")


def json_with_paths(value: Any) -> bytes:
    """JSON of a value with texts that may hold paths. Invalid UTF-8 in them is replaced."""
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        return text.encode(errors="surrogateescape").decode(errors="replace").encode()


def argument_text(text: str) -> str:
    """Typed text where the locale is ASCII: the bytes of the terminal are decoded as UTF-8."""
    return text.encode(errors="surrogateescape").decode(errors="surrogateescape")
