"""The sheet: one CSV file, open and locked for one append, and what is needed around it."""

import fcntl
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from relay import fsutil

from .ledger import Append, Piece

CONTEXT = 64


class Sheet:
    """A file to append to. Raises OSError for everything that goes wrong with it."""

    def __init__(self, path: Path, *, create: bool = True) -> None:
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0)
        self._fd = fsutil.private(str(path), flags)
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
        """The bytes in front of the offset: if they change, somebody else has edited the file."""
        start = max(offset - CONTEXT, 0)
        return os.pread(self._fd, offset - start, start)

    def write(self, data: bytes, offset: int) -> None:
        """Write all of it, and return when it is on disk."""
        self._put(data, offset)
        os.fsync(self._fd)

    def cut(self, size: int) -> None:
        """Drop what stands behind `size`, and return when that is on disk."""
        os.ftruncate(self._fd, size)
        os.fsync(self._fd)

    def settle(self, append: Append, *, cut: bool = True) -> set[str]:
        """Cut back what an append left behind to its last complete row; return the ids kept.

        Without `cut`, what stands behind that row may be somebody else's, and stays.

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
                # More than was announced is somebody else's, and not ours to cut.
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
