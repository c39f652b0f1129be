"""A disk that forgets: what is written to it is lost, torn or reordered unless it was synced.

SQLite sees a file system that works. Beside it stands what a power cut would leave: for each
file the bytes as they were at its last sync, and the writes since. At the operation that was
chosen, an image is taken of what survives; what happens later does not matter any more.
"""

# ruff: noqa: N802  the methods have SQLite's names

import itertools
import threading
from collections.abc import Callable
from pathlib import Path

import apsw

SECTOR = 512
numbers = itertools.count()

Write = tuple[int, bytes | None]
"""(offset, data), or (size, None) where the file was cut to a size."""


class File:
    """What is on disk for certain, and what was done since the last sync."""

    def __init__(self) -> None:
        self.durable = bytearray()
        self.pending: list[Write] = []
        self.named = False
        """Whether the directory's entry for it is on disk."""

    def sync(self) -> None:
        for write in self.pending:
            apply(self.durable, write)
        self.pending.clear()

    def survivor(self, chance, damage: str) -> bytearray:
        """The file after the cut. `damage`: drop, some (of the writes), reorder or tear."""
        left = bytearray(self.durable)
        if damage == "drop":
            return left
        writes = list(self.pending)
        if damage == "reorder":
            chance.shuffle(writes)
        for write in writes:
            if chance.random() < 0.5:
                apply(left, torn(write, chance) if damage == "tear" else write)
        return left


def apply(content: bytearray, write: Write) -> None:
    offset, data = write
    if len(content) < offset:
        content.extend(bytes(offset - len(content)))
    if data is None:
        del content[offset:]
    else:
        content[offset : offset + len(data)] = data


def torn(write: Write, chance) -> Write:
    """A part of a write: up to some byte, or from some sector on."""
    offset, data = write
    if not data:
        return write
    if chance.random() < 0.5:
        return offset, data[: chance.randrange(len(data))]
    start = chance.randrange(0, len(data), SECTOR)
    return offset + start, data[start:]


class Disk(apsw.VFS):
    """Registered under `name` until `close`. `at` is the number of the operation that is cut."""

    def __init__(self, chance, at: int, known: Callable[[], object]) -> None:
        self.name = f"forgetful-{next(numbers)}"
        super().__init__(self.name, "")
        self.operations = 0
        self.image: dict[str, bytes] | None = None
        self.known: object = None
        """What `known()` said at the cut."""
        self.damage = chance.choice(["drop", "some", "reorder", "tear"])
        self.forgotten = 0
        """How many writes were not synced when the power went."""
        self._chance = chance
        self._at = at
        self._ask = known
        self._files: dict[str, File] = {}
        self._deleted: dict[str, File] = {}
        self._lock = threading.Lock()

    def close(self) -> None:
        self.unregister()

    # what SQLite does

    def xOpen(self, name, flags):
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        with self._lock:
            file = self._files.setdefault(Path(path).name, File())
        return Handle(self, file, name, flags)

    def xDelete(self, name, sync_folder):
        with self._lock:
            file = self._files.pop(Path(name).name, None)
            if file is not None and file.named:
                self._deleted[Path(name).name] = file
            if sync_folder:
                self._sync_folder()
        super().xDelete(name, sync_folder)

    def written(self, file: File, write: Write) -> None:
        with self._lock:
            file.pending.append(write)
            self._count()

    def synced(self, file: File) -> None:
        with self._lock:
            self._count()
            file.sync()
            if not file.named:  # SQLite's own layer below syncs the folder with a new file
                self._sync_folder()

    # the cut

    def _sync_folder(self) -> None:
        self._deleted.clear()
        for file in self._files.values():
            file.named = True

    def _count(self) -> None:
        self.operations += 1
        if self.operations == self._at:
            self.known = self._ask()
            self.image = self._survivors()
            self.forgotten = sum(len(file.pending) for file in self._files.values())

    def _survivors(self) -> dict[str, bytes]:
        unsure = {name: file for name, file in self._files.items() if not file.named}
        kept = {name: file for name, file in self._files.items() if file.named}
        for name, file in (self._deleted | unsure).items():
            if self._chance.random() < 0.5:
                kept.setdefault(name, file)
        return {
            name: bytes(file.survivor(self._chance, self.damage)) for name, file in kept.items()
        }


class Handle(apsw.VFSFile):
    """Does what it is asked on the real file, and tells the disk."""

    def __init__(self, disk: Disk, file: File, name, flags) -> None:
        super().__init__("", name, flags)
        self._disk = disk
        self._file = file

    def xWrite(self, data, offset):
        super().xWrite(data, offset)
        self._disk.written(self._file, (offset, bytes(data)))

    def xTruncate(self, size):
        super().xTruncate(size)
        self._disk.written(self._file, (size, None))

    def xSync(self, flags):
        self._disk.synced(self._file)
        super().xSync(flags)
