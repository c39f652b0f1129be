"""The state directory: the folder of all that the relay keeps, and the name of each file in it.

Only this module makes these names. They stay over releases: an upgraded relay finds what the one
before it has left.
"""

import contextlib
import hashlib
import itertools
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

DEFAULT_STORE = "data/relay.db"
"""SQLite's file where relay.yaml names no store, relative to the folder of relay.yaml."""
LONGEST_NAME = 80
"""Bytes: the address of a unix socket has 107, and the folder's descriptor takes some of them."""
WAL = "-wal"
"""The end of the name of SQLite's write-ahead log."""
LAST_GOOD = ".valid.yaml"
"""The end of the name of the last known good configuration."""


@dataclass(frozen=True, slots=True)
class StateDirectory:
    """The paths of one relay's state.

    Several relays may share a folder, so the name of each file begins with `name`. By default that
    is the name of SQLite's file.
    """

    folder: Path
    name: str
    spill_file: Path | None = None
    """The spill where relay.yaml names its place; it may be on another disk."""

    @classmethod
    def around(cls, store: Path, spill: Path | None = None) -> Self:
        """The folder of SQLite's file."""
        return cls(store.parent, store.name, spill)

    @classmethod
    def of(cls, store: Path | str, home: Path, spill: Path | None = None) -> Self:
        """The folder of SQLite's file; the default one where the store is the URL of a server.

        `home` is the folder of relay.yaml.
        """
        return cls.around(home / DEFAULT_STORE if isinstance(store, str) else store, spill)

    def _path(self, end: str) -> Path:
        return self.folder / f"{self.name}{end}"

    # the store

    @property
    def store(self) -> Path:
        """SQLite's file, where the store is SQLite's."""
        return self.folder / self.name

    @property
    def lock(self) -> Path:
        """The lock that the process holds which owns the store."""
        return self._path(".lock")

    def before_schema(self, schema: int) -> Path:
        """The copy of the store that is made before it gets this schema."""
        return self._path(f".before-schema-{schema}")

    def replaced_at(self, now: float) -> Path:
        """The name of a store that a restore replaces; `now` is seconds since the epoch."""
        return self._path(f".replaced-{datetime.fromtimestamp(now, UTC):%Y%m%dT%H%M%SZ}")

    def store_copies(self) -> list[Path]:
        """What migrations and restores left as it was, the oldest first."""
        ends = (".before-schema-*", ".replaced-*")
        found = [path for end in ends for path in self.folder.glob(f"{self.name}{end}")]
        return sorted(found, key=lambda path: path.stat().st_mtime)

    # the spill

    @property
    def spill(self) -> Path:
        """The callbacks that could not be stored."""
        return self.spill_file or self._path(".spill")

    @property
    def rejected_lines(self) -> Path:
        """Lines of the spill that are no records, for a person to look at."""
        return rejected_lines(self.spill)

    def damaged_spills(self) -> list[Path]:
        """The spill files that were kept because some pages could not be read."""
        return sorted(self.spill.parent.glob(f"{_damaged_spill(self.spill).name}*"))

    @property
    def ballast(self) -> Path:
        """The file that is given up when the store's disk is full."""
        return self._path(".ballast")

    # the process

    @property
    def crash_log(self) -> Path:
        """What the process writes when it ends inside a plugin's code."""
        return self._path(".crash")

    @property
    def alerts(self) -> Path:
        """What each channel of the alerts has been notified of."""
        return self._path(".alerts")

    @property
    def last_good_config(self) -> Path:
        """The relay.yaml that the relay last started with."""
        return self._path(LAST_GOOD)

    @property
    def control_socket(self) -> Path:
        """The socket through which commands reach the relay. A long name becomes its digest."""
        path = self._path(".sock")
        if len(os.fsencode(path.name)) <= LONGEST_NAME:
            return path
        digest = hashlib.sha256(os.fsencode(self.name)).hexdigest()[:32]
        return self.folder / f".{digest}.sock"

    @contextlib.contextmanager
    def control_address(self) -> Iterator[str]:
        """The control socket's address, which fits into the 108 bytes of a socket's address.

        The folder is named by its descriptor, because its path may be long.
        """
        folder = os.open(self.folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield f"/proc/self/fd/{folder}/{self.control_socket.name}"
        finally:
            os.close(folder)

    def is_served(self) -> bool:
        """Whether a relay listens. Raises PermissionError where another user owns the socket."""
        try:
            with self.control_address() as address, socket.socket(socket.AF_UNIX) as probe:
                probe.connect(address)
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        return True


def last_good_configs(folder: Path) -> Iterator[Path]:
    """The last known good configurations of all relays whose state is in the folder."""
    return folder.glob(f"*{LAST_GOOD}")


# SQLite's files: the names are the same beside a copy of a store, wherever it is


def wal(database: Path) -> Path:
    """SQLite's write-ahead log of a database."""
    return database.with_name(f"{database.name}{WAL}")


def wal_files(database: Path) -> list[Path]:
    """The write-ahead log of a database, and the log's index."""
    return [wal(database), database.with_name(f"{database.name}-shm")]


def database_files(database: Path) -> list[Path]:
    """A database, and all that SQLite opens beside it."""
    return [database, *wal_files(database), database.with_name(f"{database.name}-journal")]


# the files beside a spill file


def rejected_lines(spill: Path) -> Path:
    """The file for lines of the spill that are no records."""
    return spill.with_name(f"{spill.name}.bad")


def free_damaged_spill(spill: Path) -> Path:
    """A name that no file has, for a spill file that could not be read everywhere."""
    first = _damaged_spill(spill)
    names = itertools.chain(
        [first], (first.with_name(f"{first.name}-{n}") for n in itertools.count(2))
    )
    return next(each for each in names if not each.exists())


def _damaged_spill(spill: Path) -> Path:
    return spill.with_name(f"{spill.name}.damaged")
