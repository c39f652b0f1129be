"""Rate limits: sliding windows for requests that go out, token buckets for callbacks that come in.

A sliding window lets only so many requests pass in any stretch of time, as vendors count them. A
token bucket lets a burst pass, and costs the same however high its rate is.
"""

import asyncio
import contextlib
import math
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable

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


SENDERS = 4096
"""The most senders in a shared bucket with a remembered use."""
MEMORY = 600.0
"""Seconds in which a sender's use of a shared bucket fades to about a third."""


class TokenBucket:
    """One token bucket; `now` gives seconds that only go forward."""

    __slots__ = ("_at", "_left", "_now", "_size", "_speed")

    def __init__(self, rate: Rate, now: Callable[[], float]) -> None:
        self._size = float(rate.count)
        self._speed = rate.count / rate.per
        self._left = self._size
        self._now = now
        self._at = now()

    def take(self, amount: float = 1.0, *, leave: float = 0.0) -> float:
        """0.0, and it is taken; or the seconds after which it could be.

        What is larger than the bucket is taken from a full one, and those after it wait. At least
        `leave` stays in the bucket.
        """
        now = self._now()
        left = min(self._size, self._left + (now - self._at) * self._speed)
        self._at = now
        missing = min(amount + leave, self._size) - left
        self._left = left if missing > 0 else left - amount
        return missing / self._speed if missing > 0 else 0.0


class SharedTokenBucket:
    """A token bucket of which each sender gets a share.

    A sender has to leave as much in the bucket as it took lately. So one that takes much gets what
    the others leave, and one that takes little finds something, however many the others are.
    """

    def __init__(self, rate: Rate, now: Callable[[], float]) -> None:
        self._bucket = TokenBucket(rate, now)
        self._now = now
        self._taken: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """How much each sender took lately, as of which second; the one last seen comes last."""

    def __len__(self) -> int:
        return len(self._taken)

    def take(self, sender: str) -> float:
        """As of a bucket, of 1.0."""
        now = self._now()
        taken, at = self._taken.get(sender, (0.0, now))
        taken *= math.exp((at - now) / MEMORY)
        wait = self._bucket.take(leave=taken)
        if not wait:
            taken += 1.0
        if taken:
            self._taken[sender] = taken, now
            self._taken.move_to_end(sender)
            if len(self._taken) > SENDERS:
                self._taken.popitem(last=False)
        return wait
