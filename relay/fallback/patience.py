"""Patience: how long a disk is waited for.

One write that hangs holds up all that come after it. They end together and in their order: each
on its own would be passed by callbacks that come later and go elsewhere at once.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

PATIENCE = 2.5
"""Seconds that a callback waits for the store, and then for the spill."""
LATE = 0.5
"""Seconds by which a timer comes late where the whole process stood still, not the disk."""


class Overdue(Exception):
    """It has taken too long."""


class Patience:
    """Ends what waits, once the first of it has waited for `limit` seconds."""

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[asyncio.Timeout, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    @asynccontextmanager
    async def bounded(self) -> AsyncIterator[None]:
        """What the block waits for, it waits for so long. Raises Overdue."""
        timeout = asyncio.timeout(None)
        try:
            async with timeout:
                self._waiting[timeout] = self._loop.time()
                if self._timer is None:
                    self._look_at(self._loop.time() + self.limit)
                yield
        except TimeoutError:
            if not timeout.expired():
                raise
            raise Overdue from None
        finally:
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
