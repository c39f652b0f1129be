"""Rate limiters with a sliding window: so many requests in any stretch of time."""

import asyncio
import contextlib
import math
from collections import deque
from collections.abc import AsyncIterator

from relay.clock import Clock, wait_for_event
from relay.send_context import current, unmeasured
from relay.units import Rate


class Limiter:
    """Lets `rate.count` requests pass in any `rate.per` seconds, in the order they came."""

    def __init__(self, rate: Rate, clock: Clock) -> None:
        self._per = rate.per
        self._clock = clock
        self._passed: deque[float] = deque(maxlen=rate.count)
        self._turn = asyncio.Lock()

    async def acquire(self) -> None:
        """Return when one more request may be made."""
        if current().urgent:
            self._pass()
            return
        with unmeasured():
            async with self._turn:
                while (wait := self._wait()) > 0:
                    await self._clock.sleep(wait)
                self._pass()

    def _pass(self) -> None:
        self._passed.append(self._clock.monotonic())

    def _wait(self) -> float:
        """How long until the oldest of the last `count` requests is `per` seconds ago."""
        if len(self._passed) < (self._passed.maxlen or 0):
            return 0.0
        return self._passed[0] + self._per - self._clock.monotonic()


class StrictLimiter:
    """Keeps to a rate by the other side's clock, with one request of it reserved for opt-outs.

    A request may arrive there at any moment between its start and its answer. So it counts from
    its start until `rate.per` seconds after its answer. Opt-outs wait, too, but for less.
    """

    def __init__(self, rate: Rate, clock: Clock) -> None:
        self._rate = rate
        self._clock = clock
        self._under_way = 0
        self._answered: deque[float] = deque()
        self._ended = asyncio.Event()
        self._turn = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """One request is made in the block, which is entered when it may be."""
        with unmeasured():
            if current().urgent:
                await self._free(self._rate.count)
            else:
                async with self._turn:  # in the order they came
                    await self._free(self._rate.count - 1)
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1
            self._answered.append(self._clock.monotonic())
            self._ended.set()

    async def _free(self, most: int) -> None:
        """Return when fewer than `most` requests count."""
        while self._counting() >= most:
            self._ended.clear()
            await wait_for_event(self._ended, self._clock, self._wait())

    def _counting(self) -> int:
        start = self._clock.monotonic() - self._rate.per
        while self._answered and self._answered[0] <= start:
            self._answered.popleft()
        return self._under_way + len(self._answered)

    def _wait(self) -> float:
        """Seconds until one counts no more, unless another is answered before."""
        if not self._answered:
            return math.inf
        return self._answered[0] + self._rate.per - self._clock.monotonic()
