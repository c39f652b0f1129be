"""A clock that stands still until a test moves it."""

import asyncio


class ManualClock:
    """Time as the test says. `advance` wakes those who sleep, in the order of their times."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self._wall = now
        self._monotonic = 0.0
        self._sleepers: list[tuple[float, asyncio.Event]] = []

    def now(self) -> float:
        return self._wall

    def monotonic(self) -> float:
        return self._monotonic

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        sleeper = (self._monotonic + seconds, asyncio.Event())
        self._sleepers.append(sleeper)
        try:
            await sleeper[1].wait()
        finally:
            self._sleepers.remove(sleeper)

    async def advance(self, seconds: float) -> None:
        """Move on by `seconds`, stopping at each sleeper on the way to let it run."""
        end = self._monotonic + seconds
        while due := [at for at, event in self._sleepers if at <= end and not event.is_set()]:
            self._move(min(due))
            for at, event in self._sleepers:
                if at <= self._monotonic:
                    event.set()
            await settle()
        self._move(end)
        await settle()

    def jump(self, seconds: float) -> None:
        """Set the wall clock off by `seconds`, as an administrator or NTP would."""
        self._wall += seconds

    @property
    def sleeping(self) -> int:
        """How many sleep; a test may wait for it before it moves the clock."""
        return len(self._sleepers)

    def _move(self, monotonic: float) -> None:
        self._wall += monotonic - self._monotonic
        self._monotonic = monotonic


async def settle(rounds: int = 20) -> None:
    """Let what is ready run, a few steps deep."""
    for _ in range(rounds):
        await asyncio.sleep(0)
