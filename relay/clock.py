"""The clock, passed in wherever time matters, so that tests need not wait."""

import asyncio
import time
from typing import Protocol

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
