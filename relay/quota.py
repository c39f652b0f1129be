"""A sink's quota: how much of what the vendor allows is used, and what is kept for opt-outs."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from relay.clock import MICROSECONDS, Clock, SystemClock, wait_for_event
from relay.rate_limit import Limiter
from relay.send_context import current, unmeasured
from relay.units import Rate

LOOK_AGAIN = 900.0
"""Seconds after which an ordinary delivery may see whether the day's quota has room again."""
DAY = 24 * 3600.0
MOST = 10**12
"""No vendor allows so many calls: what an answer says beyond it comes from a mistake."""


class Burst(NamedTuple):
    """The reported use of a limit over some seconds; void after `until`."""

    used: int
    most: int
    until: float


@dataclass(slots=True)
class Usage:
    """What is known of an account's calls, whichever sink makes them.

    Times are seconds of the monotonic clock.
    """

    used: int | None = None
    most: int | None = None
    counted: bool = False
    """Whether the calls are counted here, as the vendor says nothing."""
    heard_at: float = 0.0
    day_ends: float = 0.0
    exhausted_until: float = 0.0
    burst_over: dict[float, float] = field(default_factory=dict)
    """share -> when those with that share may call again"""
    burst: Burst | None = None
    under_way: int = 0
    """Calls without an answer that reported how many are left."""
    answered: asyncio.Event = field(default_factory=asyncio.Event)
    limiter: Limiter | None = None

    def to_keep(self, clock: Clock) -> dict[str, Any]:
        """The state to keep over a restart, in wall-clock times; empty without one."""
        begun = clock.now() - clock.monotonic()
        if self.used is None and self.exhausted_until <= clock.monotonic():
            return {}
        return {
            "used": self.used,
            "most": self.most,
            "counted": self.counted,
            "heard_at": round(begun + self.heard_at),
            "day_ends": round(begun + self.day_ends),
            "exhausted_until": round(begun + self.exhausted_until),
        }

    def restore(self, kept: dict[str, Any], clock: Clock) -> None:
        """Go on from what was kept, unless that is a day old, or something is known already.

        Raises TypeError or KeyError for what `to_keep` did not give.
        """
        now, monotonic = clock.now(), clock.monotonic()

        def left(at: float) -> float:
            return min(max(at - now, 0.0), DAY)

        self.exhausted_until = monotonic + left(kept["exhausted_until"])
        age = max(0.0, now - kept["heard_at"])
        if self.used is not None or kept["used"] is None or age >= DAY:
            return
        most: int | None = _credible(kept["most"])
        if kept["counted"]:
            if not self.counted:  # the options named a number of calls then, and do no more
                return
            most = self.most
        self.used, self.most, self.counted = _credible(kept["used"]), most, kept["counted"]
        self.heard_at = monotonic - age
        self.day_ends = monotonic + left(kept["day_ends"])


class Quota:
    """What the vendor lets us use: ordinary deliveries get `share` of it, opt-outs all of it.

    A sink makes one in its `__init__`, awaits `acquire` before each call, and reports with `daily`,
    `burst` and `exhausted` what the answers say. Where they say nothing, `daily` (calls a day,
    then counted here, from nought at each start) and `burst` take their place. Those that an
    account gives out share their `usage`, which outlives a restart.
    """

    def __init__(
        self,
        clock: Clock = SystemClock(),  # noqa: B008  it holds nothing that could be shared
        *,
        share: float = 0.9,
        daily: int | None = None,
        burst: Rate | None = None,
        usage: Usage | None = None,
    ) -> None:
        self._clock = clock
        self._share = share
        self._usage = Usage() if usage is None else usage
        self._usage.burst_over.setdefault(share, 0.0)
        if daily is not None:
            self._usage.most, self._usage.counted = daily, True
        if burst is not None and self._usage.limiter is None:
            self._usage.limiter = Limiter(burst, clock)

    def daily(self, used: int, most: int) -> None:
        """So many of the day's calls are used, an answer says."""
        usage = self._usage
        usage.counted = False
        usage.used, usage.most = _credible(used), _credible(most)
        usage.heard_at = self._clock.monotonic()

    def burst(self, left: int, most: int, per: float) -> None:
        """So many calls are left, an answer says, of those allowed in any `per` seconds."""
        left, most = _credible(left), _credible(most)
        over = self._clock.monotonic() + min(per, DAY)
        usage, told = self._usage, Burst(most - left, most, over)
        for share in usage.burst_over:
            if _spent(told.used, most, share):
                usage.burst_over[share] = over
        if (last := self._last_burst()) is None or told.used >= last.used:
            usage.burst = told

    def exhausted(self, seconds: float) -> None:
        """The vendor takes no more calls for so many seconds, an answer says."""
        self._usage.exhausted_until = self._clock.monotonic() + min(seconds, DAY)

    @contextlib.asynccontextmanager
    async def call(self) -> AsyncIterator[None]:
        """`acquire` for a call that is made in the block, and counts for the burst until its end.

        Report the quota of the answer in the block, too.
        """
        await self.acquire()
        self._usage.under_way += 1
        try:
            yield
        finally:
            self._usage.under_way -= 1
            self._usage.answered.set()

    async def acquire(self) -> None:
        """Return when a call may be made; for an opt-out, at once."""
        if not current().urgent:
            await self._wait_for_burst()
        if self._usage.limiter is not None:
            await self._usage.limiter.acquire()
        if self._usage.counted:
            self._count()

    @property
    def tight(self) -> bool:
        """Whether, by the last that was heard, what is left of the day is for opt-outs."""
        usage = self._usage
        if usage.used is None or usage.most is None:
            return False
        return _spent(usage.used, usage.most, self._share)

    def bulk_wait(self) -> float:
        """Seconds for which only opt-outs go; 0.0: others, too.

        It ends after a quarter of an hour, even if nothing is heard. While the quota is still
        `tight` then, the others go one by one, until an answer says that there is room.
        """
        over = max(self._look_at(), self._usage.exhausted_until)
        return max(0.0, over - self._clock.monotonic())

    def status(self) -> dict[str, Any]:
        """`used` of `most` calls of the day, the `share`, and `until` when only opt-outs go.

        `until` in microseconds since the epoch, None while all go. Empty while nothing is known.
        """
        usage, wait = self._usage, self.bulk_wait()
        if usage.used is None and not wait:
            return {}
        over = int((self._clock.now() + wait) * MICROSECONDS) if wait else None
        return {"used": usage.used, "most": usage.most, "share": self._share, "until": over}

    def _look_at(self) -> float:
        """When an ordinary delivery may see whether there is room again."""
        if not self.tight:
            return 0.0
        return self._usage.day_ends if self._usage.counted else self._usage.heard_at + LOOK_AGAIN

    async def _wait_for_burst(self) -> None:
        with unmeasured():
            while (wait := self._burst_wait()) > 0:
                self._usage.answered.clear()
                await wait_for_event(self._usage.answered, self._clock, wait)

    def _burst_wait(self) -> float:
        """Seconds until an ordinary call may be made, unless an answer says something else."""
        over, last = self._usage.burst_over[self._share], self._last_burst()
        if last and self._is_full(last):
            over = max(over, last.until)
        return over - self._clock.monotonic()

    def _last_burst(self) -> Burst | None:
        """The largest reported use within its seconds."""
        last = self._usage.burst
        return last if last and last.until > self._clock.monotonic() else None

    def _is_full(self, last: Burst) -> bool:
        """Whether those under way may take all that is for ordinary deliveries."""
        under_way = self._usage.under_way
        return under_way > 0 and _spent(last.used + under_way, last.most, self._share)

    def _count(self) -> None:
        """Count a call, where the vendor does not."""
        usage, now = self._usage, self._clock.monotonic()
        if usage.used is None or now >= usage.day_ends:
            usage.used, usage.day_ends = 0, now + DAY
        usage.used, usage.heard_at = usage.used + 1, now


def _spent(used: int, most: int, share: float) -> bool:
    return used >= share * most


def _credible(calls: int) -> int:
    """The number within bounds: one of hundreds of digits ends whoever reckons with it."""
    return min(max(calls, 0), MOST)
