"""Image: the file tree of a machine that is not running, without links that lead out of it.

Paths resolve as for a process with the image as its root: an absolute link begins at its top, and
`..` ends there. Each folder is opened by its name in the one above, so that a concurrent change
cannot lead elsewhere.
"""

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from relay import fsutil

LINKS = 40
"""The most links that are followed on a path, as in the kernel."""


class Image:
    """`root` is the folder that holds it; `/` is this machine. Paths are absolute, as in it."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def has(self, path: Path) -> bool:
        """Whether the path exists; a link counts."""
        return self._status(path) is not None

    def is_folder(self, path: Path) -> bool:
        with self._missing(), self._reached(path, last=True) as (place, name):
            return stat.S_ISDIR(os.stat(name, dir_fd=place, follow_symlinks=False).st_mode)
        return False

    def link(self, path: Path) -> Path | None:
        """The target of a link; None if it is no link."""
        with self._missing(), self._reached(path) as (place, name):
            return None if (target := _link(place, name)) is None else Path(target)
        return None

    def file(self, path: Path) -> tuple[bytes, int] | None:
        """The content of a plain file, and its mode; None where there is none."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with self._missing(), self._reached(path, last=True) as (place, name):
            descriptor = os.open(name, flags, dir_fd=place)
            found = os.fstat(descriptor).st_mode
            if stat.S_ISREG(found):
                with os.fdopen(descriptor, "rb") as file:
                    return file.read(), stat.S_IMODE(found)
            os.close(descriptor)
        return None

    def real(self, path: Path) -> Path | None:
        """The path of the file on this machine; None where there is none."""
        with self._missing(), self._reached(path, last=True) as (place, name):
            os.stat(name, dir_fd=place, follow_symlinks=False)
            return Path(f"/proc/self/fd/{place}").readlink() / name
        return None

    def write(self, path: Path, content: bytes, mode: int) -> None:
        """Create or replace a file, atomically."""
        with (
            self._reached(path, make=True) as (place, name),
            fsutil.replaced_in(place, name, 0o600) as file,
        ):
            file.write(content)
            os.fchmod(file.fileno(), mode)

    def make_link(self, path: Path, target: Path) -> None:
        with self._reached(path, make=True) as (place, name):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=place)
            os.symlink(target, name, dir_fd=place)

    def make_folder(self, path: Path, mode: int) -> None:
        with self._reached(path, make=True, last=True) as (place, name):
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=place)
            descriptor = _opened(name, place)
            try:
                os.fchmod(descriptor, mode)
            finally:
                os.close(descriptor)

    def remove(self, path: Path) -> None:
        """Remove a file, a link, or a folder with its content."""
        with self._reached(path) as (place, name):
            if stat.S_ISDIR(os.stat(name, dir_fd=place, follow_symlinks=False).st_mode):
                shutil.rmtree(name, dir_fd=place)
            else:
                os.unlink(name, dir_fd=place)

    def _status(self, path: Path) -> os.stat_result | None:
        with self._missing(), self._reached(path) as (place, name):
            return os.stat(name, dir_fd=place, follow_symlinks=False)
        return None

    @staticmethod
    def _missing() -> contextlib.suppress:
        return contextlib.suppress(FileNotFoundError, NotADirectoryError)

    @contextlib.contextmanager
    def _reached(
        self, path: Path, *, make: bool = False, last: bool = False
    ) -> Iterator[tuple[int, str]]:
        """The open folder of a path, and the name in it. With `last`, a final link is followed.

        With `make`, missing folders are made.
        """
        left = list(reversed(path.parts[1:]))
        links = 0
        with contextlib.ExitStack() as opened:
            way = [_held(opened, str(self._root))]
            while True:
                name = left.pop() if left else "."
                target = _link(way[-1], name) if left or last else None
                if target is not None:
                    links += 1
                    if links > LINKS:
                        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
                    way = way[:1] if target.startswith("/") else way
                    left += [each for each in reversed(target.split("/")) if each not in ("", ".")]
                elif name == "..":
                    way = way[:-1] or way
                elif not left:
                    break
                else:
                    if make:
                        with contextlib.suppress(FileExistsError):
                            os.mkdir(name, 0o755, dir_fd=way[-1])
                    way.append(_held(opened, name, way[-1]))
            yield way[-1], name


def _held(opened: contextlib.ExitStack, name: str, place: int | None = None) -> int:
    descriptor = _opened(name, place)
    opened.callback(os.close, descriptor)
    return descriptor


def _opened(name: str, place: int | None = None) -> int:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    return os.open(name, flags if place is None else flags | os.O_NOFOLLOW, dir_fd=place)


def _link(place: int, name: str) -> str | None:
    """The target of a link; None if it is no link, or missing."""
    try:
        return os.readlink(name, dir_fd=place)
    except OSError:
        return None
