"""The spill file: a line for each callback, appended, synced, read in order, then removed.

A line that is not whole was never acknowledged, and is cut off when the file is opened. A whole
line that is no record is put aside into another file, byte for byte. Where a line break is
damaged, the checksums show where the records end.
"""

import contextlib
import errno
import fcntl
import itertools
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from relay import fsutil
from relay.escapes import JSON, unfolded
from relay.event import RawCallback
from relay.spill.records import Line, Spilled, decode, encode, read_blocks, read_lines, split
from relay.state_directory import free_damaged_spill, rejected_lines
from relay.store import StoreLocked

TRIED = 4096
"""Bytes that `try_write` writes."""
TRIES = 3
"""How often pages that cannot be read are tried before they are passed over."""

log = logging.getLogger("relay.spill")

Redact = Callable[[RawCallback], RawCallback | None]
"""Returns what an erasure keeps of a callback; None for nothing."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some `lines` of the file, up to `end`: the `records`, and `bad` lines that are none."""

    end: int
    lines: int = 0
    records: list[Spilled] = field(default_factory=list)
    bad: list[bytes] = field(default_factory=list)


def count(path: Path) -> int:
    """How many lines a spill file has; 0 if there is none. It need not be this process's."""
    try:
        with fsutil.reading(path) as file:
            return sum(line.endswith(b"\n") for line in file)
    except FileNotFoundError:
        return 0


def count_if_readable(path: Path) -> int:
    """As `count`; 0 where it cannot be read."""
    try:
        return count(path)
    except OSError:
        return 0


def unreadable(path: Path) -> str:
    """Why it cannot be read; empty where it can, or is not there."""
    try:
        with fsutil.reading(path) as file:
            file.read(1)
    except FileNotFoundError:
        return ""
    except OSError as error:
        return str(error)
    return ""


class SpillFile:
    """An append-only file, for one thread at a time. Every method may raise OSError.

    `size` is how many bytes are on disk for certain, `lines` how many lines. While it is
    `unopened`, there may be a file that holds callbacks, and nothing is known of them.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rejected = rejected_lines(path)
        self.size = 0
        self.lines = 0
        self.unopened = False
        self._descriptor: int | None = None
        self._named = False
        self._clean = False
        self._damaged = False
        """Whether a page could not be read: the file is to be kept, then."""
        self._failures = 0
        self._logged_missing = False
        """Whether it was logged that the file was deleted or replaced."""

    def open(self) -> int:
        """Own the file if it is there, and cut off what is not whole; return how many bytes.

        Raises StoreLocked where another process has it.
        """
        if self._descriptor is not None:
            return 0
        self.unopened = True
        if self._is_there():
            return self._own()
        self.unopened = False
        return 0

    def detect(self) -> None:
        """Note a file that has appeared, as with a disk that is mounted late."""
        if self._descriptor is None and not self.unopened:
            self.unopened = self._is_there()

    def _is_there(self) -> bool:
        """Whether the name exists. A broken link counts: its disk may not be mounted yet."""
        try:
            self.path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def append(self, lines: Sequence[bytes]) -> None:
        """Return when the lines are on disk. Where that fails, none of them is ever read."""
        written = b"".join(lines)
        self._make_ready()
        self._append(written)
        while not self._in_place():  # at the next start the lines would be lost
            self._make_ready()
            self._append(written)
        self.size += len(written)
        self.lines += len(lines)

    def try_write(self) -> None:
        """Write some bytes, and cut them off again."""
        self._make_ready()
        self._append(bytes(TRIED))
        self._clean = False
        self._cut()

    def restore_if_deleted(self) -> None:
        """Write the file again where it was deleted or replaced: it is still open here.

        The lines of a file in its place, as of another relay, come behind its own.
        """
        if self._descriptor is None:
            return
        if self._in_place():
            self._logged_missing = False
            self._measure_if_shorter()
            return
        if not self._logged_missing:
            log.critical("%s was deleted or replaced while the relay had it open", self.path)
        self._logged_missing = True
        fsutil.make(self.path.parent)
        with fsutil.replaced(self.path) as file:
            file.writelines(each.content for each in self._from(0, skip=True))
            if self.path.exists():
                with fsutil.reading(self.path) as other:
                    file.writelines(line for line in other if line.endswith(b"\n"))
        self.close()
        self._own()
        log.warning("%s is there again, with %d callbacks", self.path, self.lines)

    def read(self, start: int, limit: int) -> Chunk:
        """The next lines, `limit` at most.

        Pages that the disk fails to read several times come as zeros: the lines that they are
        part of are bad then, and those behind them are read.
        """
        self.restore_if_deleted()
        try:
            chunk = self._chunk(start, limit, skip=self._failures >= TRIES)
        except OSError as error:
            self._failures += error.errno == errno.EIO
            raise
        self._failures = 0
        return chunk

    def _chunk(self, start: int, limit: int, *, skip: bool) -> Chunk:
        records, bad, end, number = [], [], start, 0
        for line in itertools.islice(self._from(start, skip=skip), limit):
            end += len(line.content)
            number += 1
            if not line.whole:
                self._note_damage(end)
            for each in split(line.content):
                record = decode(each)
                if record is None:
                    bad.append(each)
                else:
                    records.append(record)
        return Chunk(end, number, records, bad)

    def put_aside(self, lines: Sequence[bytes]) -> None:
        """Keep lines that are no records; once, however often they are read."""
        with open(self.rejected, "a+b", opener=fsutil.private) as file:
            file.seek(0)
            there = set(file)
            file.writelines(line for line in lines if line not in there)
            file.flush()
            os.fsync(file.fileno())
        fsutil.sync(self.rejected.parent)

    def remove(self, end: int) -> bool:
        """Remove the file unless there is something behind `end`.

        One that could not be read everywhere gets another name instead.
        """
        self.restore_if_deleted()
        if self.size > end:
            return False
        if self._descriptor is not None:
            if self._damaged:
                self.path.rename(free_damaged_spill(self.path))
            elif not self._unlinked():
                return True
            self.close()
            fsutil.sync(self.path.parent)
        return True

    def _unlinked(self) -> bool:
        """Remove the name; return whether that was possible. If not, the file is emptied.

        Otherwise callbacks that have been purged or erased since would be stored again.
        """
        try:
            self.path.unlink(missing_ok=True)
        except OSError:
            self.size = self.lines = 0
            self._clean = False
            self._cut()
            return False
        return True

    def erase(self, redact: Redact) -> int:
        """Write the file with what is to be kept; return how many callbacks lost something.

        `redact` gets a line that is no record as the body of a callback.
        """
        if self.unopened:
            self.open()
        self.restore_if_deleted()
        erased = _rewrite(self.rejected, redact) if self.rejected.exists() else 0
        if self._descriptor is None:
            return erased
        gone = _rewrite(self.path, redact)
        if gone:
            self.close()
            self._own()
        return erased + gone

    def close(self) -> None:
        """Close the file, and forget its size."""
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor = None
        self._named = self._clean = self._damaged = False
        self.size = self.lines = 0

    @property
    def _fd(self) -> int:
        assert self._descriptor is not None
        return self._descriptor

    def _make_ready(self) -> None:
        """Open the file, with its name on disk, and cut off what is not on disk for certain."""
        self.restore_if_deleted()
        if self._descriptor is None:
            fsutil.make(self.path.parent)
            self._own(skip=True)  # to append, nothing has to be read
        self._cut()
        if not self._named:
            fsutil.sync(self.path.parent)
            self._named = True

    def _in_place(self) -> bool:
        """Whether the name belongs to the open file."""
        try:
            return os.path.samestat(self.path.stat(), os.fstat(self._fd))
        except OSError:
            return False

    def _append(self, data: bytes) -> None:
        """Append the bytes, and sync them."""
        self._clean = False
        try:
            self._write_at_end(data)
            os.fdatasync(self._fd)
        except OSError:
            with contextlib.suppress(OSError):
                self._cut()
            raise
        self._clean = True

    def _own(self, *, skip: bool = False) -> int:
        """Open the file, made if need be, and lock it; return how many bytes were cut off.

        With `skip`, pages that cannot be read are passed over at once.
        """
        self.unopened = True
        descriptor = fsutil.private(str(self.path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._measure(descriptor, skip=skip or self._failures >= TRIES)
        except BlockingIOError:
            os.close(descriptor)
            raise StoreLocked(
                f"{self.path} is in use by another relay process: stop that first,"
                " or name another `store_fallback`"
            ) from None
        except BaseException as error:
            self._failures += isinstance(error, OSError) and error.errno == errno.EIO
            self.size = self.lines = 0
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        self.unopened = False
        self._failures = 0
        with contextlib.suppress(OSError):  # the next append comes to it
            return self._cut()
        return 0

    def _measure(self, descriptor: int, *, skip: bool) -> None:
        self.size = self.lines = 0
        size = os.fstat(descriptor).st_size
        for block in read_blocks(descriptor, 0, size, skip=skip):
            self.lines += block.content.count(b"\n")
            last = block.content.rfind(b"\n")
            if last >= 0:
                self.size = block.at + last + 1
            if not block.whole:
                self._note_damage(block.at)
        if self.size < size and self._worth_keeping(descriptor, size):
            os.pwrite(descriptor, b"\n", size)
            os.fdatasync(descriptor)
            self.size = size + 1
            self.lines += 1
            log.warning("%s: its last line had lost its end, and is kept", self.path)

    def _worth_keeping(self, descriptor: int, end: int) -> bool:
        """Whether there may be a record behind the last line break."""
        tail = read_lines(descriptor, self.size, end, skip=True)
        return self._damaged or any(
            decode(record) for line in tail for record in split(line.content)
        )

    def _measure_if_shorter(self) -> None:
        """Measure the file again where another program has cut it short."""
        gone = self.size - os.fstat(self._fd).st_size
        if gone > 0:
            log.critical("%s was cut short: %d bytes of callbacks are gone", self.path, gone)
            self._measure(self._fd, skip=True)
            self._clean = False

    def _note_damage(self, near: int) -> None:
        if not self._damaged:
            log.error("%s cannot be read near byte %d: it is to be kept", self.path, near)
        self._damaged = True

    def _cut(self) -> int:
        """Cut off what is not on disk for certain; return how many bytes that were."""
        if self._clean:
            return 0
        behind = os.fstat(self._fd).st_size - self.size
        if behind:
            os.ftruncate(self._fd, self.size)
            os.fdatasync(self._fd)
        self._clean = True
        return behind

    def _write_at_end(self, data: bytes) -> None:
        at, left = self.size, memoryview(data)
        while left:
            written = os.pwrite(self._fd, left, at)
            at, left = at + written, left[written:]

    def _from(self, start: int, *, skip: bool) -> Iterator[Line]:
        """The lines from there to the end of what is on disk for certain."""
        if self._descriptor is None:
            return iter(())
        return read_lines(self._fd, start, self.size, skip=skip)


def _rewrite(path: Path, redact: Redact) -> int:
    """Write a file with what is to be kept; return how many lines are not as they were."""
    changed = 0
    with fsutil.reading(path) as old, fsutil.replaced(path) as file:
        for line in itertools.chain.from_iterable(map(split, old)):
            new = _redacted(line, redact)
            changed += new != line
            file.write(new)
    return changed


def _redacted(line: bytes, redact: Redact) -> bytes:
    record = decode(line)
    callback = record.callback if record else _unread(line)
    left = redact(callback)
    if left == callback:
        return line
    return encode(record._replace(callback=left)) if record and left else b""


def _unread(line: bytes) -> RawCallback:
    """A line that is no record, and its text as the bytes that it was written from."""
    text = unfolded(line, JSON).data.decode("utf-8", "replace")
    written = text.encode("latin-1", "replace")
    return RawCallback(source="", method="", query=line, content_type="", body=written, received=0)
