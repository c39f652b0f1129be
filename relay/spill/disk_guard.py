"""The reserve: space on the disks that new callbacks leave to all the rest.

Settlements, the purge and the commands have to write, too, and least of all may they stop when
the disk fills up. A small disk keeps back a part of itself instead.
"""

import asyncio
import contextlib
import logging
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from relay import fsutil
from relay.config.loader import Config
from relay.spill.ballast import Ballast
from relay.store import StoreError

PART = 16
"""The reserve is never more than one part in so many of the disk."""
SHARE = 4
"""The spill may take all but one part in so many of the reserve; the ballast is as large."""

log = logging.getLogger("relay.reserve")

Reusable = Callable[[], Awaitable[int]]


@dataclass(frozen=True, slots=True)
class Disk:
    """Bytes of a file system; `free` are those that anybody may take."""

    total: int
    free: int

    @classmethod
    def of(cls, path: Path) -> Self:
        """The one on which `path` is, or will be. Raises OSError."""
        found = os.statvfs(fsutil.existing(path))
        return cls(found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize)

    def reserve(self, wanted: int) -> int:
        return min(wanted, self.total // PART)


class Reserve:
    """Looks at the disks. `wanted` in bytes; with 0 nothing is kept back."""

    def __init__(self, store: Path, spill: Path, wanted: int) -> None:
        self._store = store
        self._spill = spill
        self._wanted = wanted
        self._ballast = Ballast(store)
        self.store_low = False
        self.spill_low = False

    @classmethod
    def of(cls, config: Config) -> Self:
        store = config.store if isinstance(config.store, Path) else config.store_fallback
        return cls(store, config.store_fallback, config.store_reserve)

    async def look(self, reusable: Reusable) -> None:
        """Find out how things stand, and see to the ballast.

        `reusable` tells how many bytes the store has free within its file.
        """
        try:
            disk, self.spill_low = await asyncio.to_thread(self._tend)
            keep = disk.reserve(self._wanted)
            self.store_low = disk.free < keep and disk.free + await reusable() < keep
        except (OSError, StoreError) as error:
            log.debug("the disk cannot be looked at: %s", error)

    def relieve(self) -> None:
        """Give up the ballast where the disk is full, so that the store can be opened."""
        with contextlib.suppress(OSError):
            disk = Disk.of(self._store)
            if disk.free < disk.reserve(self._wanted) // SHARE:
                self._ballast.give_up()

    def _tend(self) -> tuple[Disk, bool]:
        """The store's disk, and whether the spill's is low; the ballast is seen to."""
        self.relieve()
        disk, other = Disk.of(self._store), Disk.of(self._spill)
        keep = disk.reserve(self._wanted)
        if disk.free > 2 * keep:
            with contextlib.suppress(OSError):  # the store's folder may be what is wrong
                self._ballast.restore(keep // SHARE)
        return disk, other.free < other.reserve(self._wanted) // SHARE
