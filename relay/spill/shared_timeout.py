"""A timeout that all who wait for the store share.

One write that hangs holds up all that come after it. They end together and in their order: each
on its own would be passed by callbacks that come later and go elsewhere at once.
"""

import asyncio
from types import TracebackType

from relay.store import StoreStalled

DISK_TIMEOUT = 2.5
"""Seconds that a callback waits for the store, and then for the spill."""
LATE = 0.5
"""Seconds by which a timer comes late where the whole process stood still, not the disk."""


class SharedTimeout:
    """Ends what waits for the store, once the first of it has waited for `limit` seconds."""

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[asyncio.Timeout, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def bounded(self) -> "Bounded":
        """What the block waits for, it waits for so long. Raises StoreStalled."""
        return Bounded(self)

    def add(self, timeout: asyncio.Timeout) -> None:
        """It waits from now on."""
        now = self._loop.time()
        self._waiting[timeout] = now
        if self._timer is None:
            self._look_at(now + self.limit)

    def remove(self, timeout: asyncio.Timeout) -> None:
        """It waits no more."""
        self._waiting.pop(timeout, None)

    def _look_at(self, when: float) -> None:
        self._timer = self._loop.call_at(when, self._look, when)

    def _look(self, due: float) -> None:
        """End all where the first is overdue; look again when the next may be."""
        self._timer = None
        now, first = self._loop.time(), next(iter(self._waiting.values()), None)
        if first is None:
            return
        if now - due > LATE:  # what has been done meanwhile has not been told yet
            self._look_at(now + LATE)
        elif first + self.limit <= now:
            for timeout in self._waiting:
                timeout.reschedule(now)
            self._waiting = {}
        else:
            self._look_at(first + self.limit)


class Bounded:
    """A block that waits for the store. A class, as there is one for each callback."""

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
