"""Rate limiters, for a sink's `rate` among others: so many requests in any stretch of time."""

import asyncio
import contextlib
import math
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextvars import ContextVar

from relay.clock import Clock, Stopwatch, wait_for_event
from relay.units import Rate

urgent: ContextVar[bool] = ContextVar("urgent", default=False)
"""True while an opt-out is delivered: its requests do not wait, but count for those to come."""

timeout: ContextVar[float] = ContextVar("timeout", default=math.inf)
"""Seconds that a send may take."""

stopwatch: ContextVar[Stopwatch | None] = ContextVar("stopwatch", default=None)
"""Times a send; it stands still while the send waits here, which is no fault of the sink."""


def time_left() -> float:
    """Seconds until the present send is cancelled; infinite outside of one."""
    watch = stopwatch.get()
    return math.inf if watch is None else timeout.get() - watch.elapsed()


@contextlib.contextmanager
def going_past(*, rate: bool) -> Iterator[None]:
    """Within, requests do not wait for the sink's `rate` where `rate` is True."""
    token = urgent.set(rate)
    try:
        yield
    finally:
        urgent.reset(token)


@contextlib.contextmanager
def limited(seconds: float, watch: Stopwatch) -> Iterator[None]:
    """Within, a send may take so many seconds by `watch`."""
    tokens = timeout.set(seconds), stopwatch.set(watch)
    try:
        yield
    finally:
        timeout.reset(tokens[0])
        stopwatch.reset(tokens[1])


@contextlib.contextmanager
def unmeasured() -> Iterator[None]:
    """What is waited for in here does not count against the sink's time-out."""
    watch = stopwatch.get()
    if watch is None:
        yield
        return
    watch.stop()
    try:
        yield
    finally:
        watch.start()


class Limiter:
    """Lets `rate.count` requests pass in any `rate.per` seconds, in the order they came."""

    def __init__(self, rate: Rate, clock: Clock) -> None:
        self._per = rate.per
        self._clock = clock
        self._passed: deque[float] = deque(maxlen=rate.count)
        self._turn = asyncio.Lock()

    async def acquire(self) -> None:
        """Return when one more request may be made."""
        if urgent.get():
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
            if urgent.get():
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
