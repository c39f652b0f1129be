"""The spill's file: a line for each callback, appended, synced, read in order, then removed.

A line is the CRC-32 of what follows, and the record as JSON with the callback's bytes as Latin-1.
One that is not whole was never acknowledged, and is cut off when the file is opened. One that is
whole and wrong is put aside into a file of its own, byte for byte.
"""

import contextlib
import fcntl
import logging
import os
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from relay import folder
from relay.callbacks.callback import Callback
from relay.store import StoreLocked

BYTES = ("query", "body", "token_digest")
OPTIONAL = ("encoding", "sender", "token_digest")
"""Left out of a line where they are empty, as in the lines of earlier releases."""

SUM = 8
"""Hexadecimal digits of the checksum."""

TRIED = 4096
"""Bytes that are written to find out whether any can be."""

log = logging.getLogger("relay.spill")

Matches = Callable[[Callback], bool]


class Spilled(NamedTuple):
    """A callback in the spill, with the id that its sender was told.

    With a `status` it goes to quarantine, for the `reason`; else it is an event. One that is `late`
    was released from there, after its contact had said something else.
    """

    id: str
    callback: Callback
    status: int | None = None
    reason: str = ""
    late: bool = False


@dataclass(frozen=True, slots=True)
class Chunk:
    """What stands in the file before `end`: the records that are right, the lines that are not."""

    end: int
    records: list[Spilled] = field(default_factory=list)
    bad: list[bytes] = field(default_factory=list)

    @property
    def lines(self) -> int:
        return len(self.records) + len(self.bad)


def encode(spilled: Spilled) -> bytes:
    """The record as a line."""
    callback = {
        name: value.decode("latin-1") if name in BYTES else value
        for name, value in spilled.callback._asdict().items()
        if value or name not in OPTIONAL
    }
    kept = {} if spilled.status is None else {"status": spilled.status, "reason": spilled.reason}
    kept |= {"late": True} if spilled.late else {}
    record = orjson.dumps({"id": spilled.id, **kept, "callback": callback})
    return b"%0*x %s\n" % (SUM, zlib.crc32(record), record)


def decode(line: bytes) -> Spilled | None:
    """The record that a line holds; None where it is not as it was written."""
    digits, _, record = line.removesuffix(b"\n").partition(b" ")
    try:
        if len(digits) != SUM or int(digits, 16) != zlib.crc32(record):
            return None
        found: dict[str, Any] = orjson.loads(record)
        callback = _known(Callback, found.pop("callback"))
        callback |= {name: callback[name].encode("latin-1") for name in BYTES if name in callback}
        return Spilled(**_known(Spilled, found), callback=Callback(**callback))
    except (AttributeError, KeyError, TypeError, ValueError):
        return None


def _known(kind: type[NamedTuple], values: Mapping[str, Any]) -> dict[str, Any]:
    """Without what a later release may have written: the way back is by the spill, too."""
    return {name: value for name, value in values.items() if name in kind._fields}


def count(path: Path) -> int:
    """How many lines stand in a spill, whoever has it; 0 where there is none."""
    try:
        with path.open("rb") as file:
            return sum(line.endswith(b"\n") for line in file)
    except FileNotFoundError:
        return 0


class SpillFile:
    """The file, for one thread at a time. Everything may raise OSError.

    `size` is what is on disk for certain, in bytes; `lines` is how many that are.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.aside = path.with_name(f"{path.name}.bad")
        self.size = 0
        self.lines = 0
        self._descriptor: int | None = None
        self._named = False
        self._clean = False

    def open(self) -> int:
        """Own the file if it is there, and cut off what is not whole; return how many bytes.

        Raises StoreLocked where another process has it.
        """
        return self._own() if self.path.exists() else 0

    def append(self, lines: Sequence[bytes]) -> None:
        """Return when they are on disk. Where that fails, none of them is to be read again."""
        written = b"".join(lines)
        self._make_ready()
        self._put(written)
        while not self._in_place():  # nobody would find it there
            self._make_ready()
            self._put(written)
        self.size += len(written)
        self.lines += len(lines)

    def try_write(self) -> None:
        """Return when something could be written, which is not there afterwards."""
        self._make_ready()
        self._put(bytes(TRIED))
        self._clean = False
        self._cut()

    def put_back(self) -> None:
        """Make the file anew where somebody has deleted or replaced it: it is still open here.

        What stands in its place, as another relay's, comes behind what it held.
        """
        if self._descriptor is None or self._in_place():
            return
        log.critical("%s was deleted or replaced while the relay had it open", self.path)
        folder.make(self.path.parent)
        new = self.path.with_name(f"{self.path.name}.new")
        with open(new, "wb", opener=folder.private) as file:
            file.writelines(self._from(0))
            if self.path.exists():
                with self.path.open("rb") as other:
                    file.writelines(line for line in other if line.endswith(b"\n"))
            file.flush()
            os.fsync(file.fileno())
        new.replace(self.path)
        folder.sync(self.path.parent)
        self.close()
        self._own()
        log.warning("%s is there again, with %d callbacks", self.path, self.lines)

    def read(self, start: int, limit: int) -> Chunk:
        """The next lines, `limit` at most."""
        self.put_back()
        records, bad, end = [], [], start
        for line in self._from(start):
            end += len(line)
            record = decode(line)
            if record is None:
                bad.append(line)
            else:
                records.append(record)
            if len(records) + len(bad) == limit:
                break
        return Chunk(end, records, bad)

    def put_aside(self, lines: Sequence[bytes]) -> None:
        """Keep lines that are wrong; once, however often they are met."""
        with open(self.aside, "a+b", opener=folder.private) as file:
            file.seek(0)
            there = set(file)
            file.writelines(line for line in lines if line not in there)
            file.flush()
            os.fsync(file.fileno())
        folder.sync(self.aside.parent)

    def remove(self, end: int) -> bool:
        """Remove the file unless there is something behind `end`."""
        self.put_back()
        if self.size != end:
            return False
        if self._descriptor is not None:
            self.path.unlink(missing_ok=True)
            self.close()
            folder.sync(self.path.parent)
        return True

    def erase(self, matches: Matches) -> int:
        """Write the file anew without the callbacks that match; return how many there were.

        What cannot be read is shown as a callback whose body it is.
        """
        self.put_back()
        erased = _without(self.aside, matches) if self.aside.exists() else 0
        if self._descriptor is None:
            return erased
        gone = _without(self.path, matches)
        if gone:
            self.close()
            self._own()
        return erased + gone

    def close(self) -> None:
        """Let go of the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor = None
        self._named = self._clean = False
        self.size = self.lines = 0

    @property
    def _fd(self) -> int:
        assert self._descriptor is not None
        return self._descriptor

    def _make_ready(self) -> None:
        """Have a file with a name, and nothing in it that is not on disk for certain."""
        self.put_back()
        if self._descriptor is None:
            folder.make(self.path.parent)
            self._own()
        self._cut()
        if not self._named:
            folder.sync(self.path.parent)
            self._named = True

    def _in_place(self) -> bool:
        """Whether the name leads to what is open."""
        try:
            return os.path.samestat(self.path.stat(), os.fstat(self._fd))
        except OSError:
            return False

    def _put(self, data: bytes) -> None:
        """Bring it to disk behind what is there."""
        self._clean = False
        try:
            self._write(data)
            os.fdatasync(self._fd)
        except OSError:
            with contextlib.suppress(OSError):
                self._cut()
            raise
        self._clean = True

    def _own(self) -> int:
        """Open the file, made if need be, and lock it; return how many bytes were cut off."""
        descriptor = folder.private(str(self.path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._measure()
        except BlockingIOError:
            os.close(descriptor)
            raise StoreLocked(
                f"{self.path} is in use by another relay process: stop that first,"
                " or name another `store_fallback`"
            ) from None
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        with contextlib.suppress(OSError):  # the next append comes to it
            return self._cut()
        return 0

    def _measure(self) -> None:
        self.size = self.lines = 0
        with self.path.open("rb") as file:
            for line in file:
                if line.endswith(b"\n"):
                    self.lines += 1
                    self.size += len(line)

    def _cut(self) -> int:
        """Leave nothing behind what is on disk for certain; return how many bytes there were."""
        if self._clean:
            return 0
        behind = os.fstat(self._fd).st_size - self.size
        if behind:
            os.ftruncate(self._fd, self.size)
            os.fdatasync(self._fd)
        self._clean = True
        return behind

    def _write(self, data: bytes) -> None:
        at, left = self.size, memoryview(data)
        while left:
            written = os.pwrite(self._fd, left, at)
            at, left = at + written, left[written:]

    def _from(self, start: int) -> Iterator[bytes]:
        """The lines from there to the end of what is on disk for certain."""
        if start >= self.size:
            return
        with os.fdopen(os.dup(self._fd), "rb") as file:  # it may have lost its name
            file.seek(start)
            while file.tell() < self.size:
                yield file.readline()


def _without(path: Path, matches: Matches) -> int:
    """Write a file anew without the lines that match; return how many there were."""
    gone = 0
    new = path.with_name(f"{path.name}.new")
    with path.open("rb") as old, open(new, "wb", opener=folder.private) as file:
        for line in old:
            record = decode(line)
            if matches(record.callback if record else _unread(line)):
                gone += 1
            else:
                file.write(line)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
    folder.sync(path.parent)
    return gone


def _unread(line: bytes) -> Callback:
    return Callback(source="", method="", query=b"", content_type="", body=line, received=0)
