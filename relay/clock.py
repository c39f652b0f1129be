"""Time: a clock that tests can move, a stopwatch that can be stopped, waiting with a time-out.

The clock is passed in wherever time matters, so that tests need not wait.
"""

import asyncio
import time
from collections.abc import Iterable
from typing import Any, Protocol

MICROSECONDS = 1_000_000
"""In a second: the store counts in these."""


class Clock(Protocol):
    """What the relay needs of time; all three in seconds."""

    def now(self) -> float:
        """Wall time since the epoch. It may jump: never order by it."""

    def monotonic(self) -> float:
        """A clock that only goes forward, for durations."""

    async def sleep(self, seconds: float) -> None:
        """Return after `seconds` of this clock."""


class SystemClock:
    """The machine's own clock."""

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class Stopwatch:
    """Counts the seconds between `start` and `stop`, on top of `start_at`."""

    def __init__(self, clock: Clock, start_at: float = 0.0) -> None:
        self._clock = clock
        self._passed = start_at
        self._since: float | None = None

    def start(self) -> None:
        if self._since is None:
            self._since = self._clock.monotonic()

    def stop(self) -> None:
        self._passed = self.elapsed()
        self._since = None

    def elapsed(self) -> float:
        """The seconds so far."""
        if self._since is None:
            return self._passed
        return self._passed + self._clock.monotonic() - self._since


async def wait_for_event(event: asyncio.Event, clock: Clock, seconds: float) -> None:
    """Wait for the event, `seconds` at the most."""
    if seconds == float("inf"):
        await event.wait()
        return
    tasks = [
        asyncio.ensure_future(event.wait()),
        asyncio.ensure_future(clock.sleep(seconds)),
    ]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await cancel_all(tasks)


async def cancel_all(tasks: Iterable[asyncio.Future[Any]]) -> None:
    """Cancel the tasks and wait until they have ended."""
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
