"""Disks that fill up or do not answer: reserved space, the ballast, and a shared time-out.

Settlements, the purge and the commands must be able to write when the disk fills up, so new
callbacks leave a reserve to them. SQLite has to write even to delete. For that the ballast, a file
beside the store, is removed when the disk is full.
"""

import asyncio
import contextlib
import logging
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from relay import fsutil
from relay.state_directory import StateDirectory
from relay.store import StoreError, StoreStalled

RESERVE_DIVISOR = 16
"""The reserve is at most the disk's size divided by this."""
KEPT_DIVISOR = 4
"""The spill leaves the reserve divided by this free. The ballast has the same size."""
DISK_TIMEOUT = 2.5
"""Seconds that a callback waits for the store, and then for the spill."""
LATE = 0.5
"""Seconds. A timer that is later than this shows that the process stood still, not the disk."""

log = logging.getLogger("relay.reserve")
ballast_log = logging.getLogger("relay.ballast")

Reusable = Callable[[], Awaitable[int]]


class Ballast:
    """The ballast file: it only takes up space. Every method may raise OSError."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def restore(self, size: int) -> None:
        """Take up `size` bytes, allocated: a file with holes would free nothing."""
        if self._size() == size:
            return
        descriptor = fsutil.private(str(self.path), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC)
        try:
            os.ftruncate(descriptor, size)
            if size:
                os.posix_fallocate(descriptor, 0, size)
        except OSError:
            self.path.unlink()
            raise
        finally:
            os.close(descriptor)

    def release(self) -> None:
        """Remove the file."""
        if size := self._size():
            self.path.unlink()
            ballast_log.warning("the disk is full: %s gave up its %d bytes", self.path, size)

    def _size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0


@dataclass(frozen=True, slots=True)
class DiskSpace:
    """Bytes of a file system; `free` are available to every user."""

    total: int
    free: int

    @classmethod
    def of(cls, path: Path) -> Self:
        """The file system on which `path` is, or will be. Raises OSError."""
        found = os.statvfs(fsutil.existing(path))
        return cls(found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize)

    def reserve(self, wanted: int) -> int:
        return min(wanted, self.total // RESERVE_DIVISOR)


class DiskGuard:
    """Checks the disks of store and spill. `wanted` bytes are reserved; 0 reserves nothing."""

    def __init__(self, state: StateDirectory, wanted: int) -> None:
        self._store = state.store
        self._spill = state.spill
        self._wanted = wanted
        self._ballast = Ballast(state.ballast)
        self.store_low = False
        self.spill_low = False

    async def check(self, reusable: Reusable) -> None:
        """Set `store_low` and `spill_low`; free or allocate the ballast.

        `reusable` returns how many bytes are free within the store's file.
        """
        try:
            disk, self.spill_low = await asyncio.to_thread(self._check_disks)
            keep = disk.reserve(self._wanted)
            self.store_low = disk.free < keep and disk.free + await reusable() < keep
        except (OSError, StoreError) as error:
            log.debug("the disk cannot be checked: %s", error)

    def release_ballast(self) -> None:
        """Remove the ballast where the disk is full, so that the store can be opened."""
        with contextlib.suppress(OSError):
            disk = DiskSpace.of(self._store)
            if disk.free < disk.reserve(self._wanted) // KEPT_DIVISOR:
                self._ballast.release()

    def _check_disks(self) -> tuple[DiskSpace, bool]:
        """The store's disk, and whether the spill's is low; frees or allocates the ballast."""
        self.release_ballast()
        disk, other = DiskSpace.of(self._store), DiskSpace.of(self._spill)
        keep = disk.reserve(self._wanted)
        if disk.free > 2 * keep:
            with contextlib.suppress(OSError):  # the store's folder may be what is wrong
                self._ballast.restore(keep // KEPT_DIVISOR)
        return disk, other.free < other.reserve(self._wanted) // KEPT_DIVISOR


class SharedTimeout:
    """A time-out shared by all that wait for the store.

    One write that hangs holds up all that come after it. They end together, in their order, once
    the first has waited `limit` seconds: each on its own would be passed by callbacks that come
    later and are spilled at once.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[asyncio.Timeout, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def bounded(self) -> "Bounded":
        """A block that waits no longer than that. Raises StoreStalled."""
        return Bounded(self)

    def add(self, timeout: asyncio.Timeout) -> None:
        """Begin to measure the wait."""
        now = self._loop.time()
        self._waiting[timeout] = now
        if self._timer is None:
            self._check_at(now + self.limit)

    def remove(self, timeout: asyncio.Timeout) -> None:
        """End the wait."""
        self._waiting.pop(timeout, None)

    def _check_at(self, when: float) -> None:
        self._timer = self._loop.call_at(when, self._check, when)

    def _check(self, due: float) -> None:
        """End all waits where the first is overdue; check again when the next may be."""
        self._timer = None
        now, first = self._loop.time(), next(iter(self._waiting.values()), None)
        if first is None:
            return
        if now - due > LATE:  # what was done meanwhile is not delivered yet
            self._check_at(now + LATE)
        elif first + self.limit <= now:
            for timeout in self._waiting:
                timeout.reschedule(now)
            self._waiting = {}
        else:
            self._check_at(first + self.limit)


class Bounded:
    """A block that waits for the store. A class, as each callback has one."""

    __slots__ = ("_shared", "_timeout")

    def __init__(self, shared: SharedTimeout) -> None:
        self._shared = shared
        self._timeout = asyncio.timeout(None)

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()
        self._shared.add(self._timeout)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._shared.remove(self._timeout)
        try:
            await self._timeout.__aexit__(kind, error, traceback)
        except TimeoutError:
            limit = self._shared.limit
            raise StoreStalled(f"the store has not answered for {limit:g} s") from None
