"""A sink's quota: how much of what the vendor allows is used, and what is kept for opt-outs."""

from typing import Any

from relay.clock import MICROSECONDS, Clock, SystemClock
from relay.delivery.limiter import Limiter, unmeasured, urgent
from relay.units import Rate

LOOK_AGAIN = 900.0
"""Seconds after which an ordinary delivery may see whether the day's quota has room again."""
DAY = 24 * 3600.0
MOST = 10**12
"""No vendor allows so many calls: what an answer says beyond it comes from a mistake."""


class Quota:
    """What the vendor lets us use: ordinary deliveries get `share` of it, opt-outs all of it.

    A sink makes one in its `__init__`, awaits `acquire` before each call, and tells with `daily`,
    `burst` and `exhausted` what the answers say. Where they say nothing, `daily` (calls a day,
    then counted here, from nought at each start) and `burst` take their place.
    """

    def __init__(
        self,
        clock: Clock = SystemClock(),  # noqa: B008  it holds nothing that could be shared
        *,
        share: float = 0.9,
        daily: int | None = None,
        burst: Rate | None = None,
    ) -> None:
        self._clock = clock
        self._share = share
        self._used: int | None = None
        self._most = daily
        self._counts = daily is not None
        self._day_ends = 0.0
        self._look_at = 0.0
        self._exhausted_until = 0.0
        self._burst_over = 0.0
        self._limiter = None if burst is None else Limiter(burst, clock)

    def daily(self, used: int, most: int) -> None:
        """So many of the day's calls are used, an answer says."""
        used, most = _credible(used), _credible(most)
        self._counts = False
        self._used, self._most = used, most
        self._look_at = self._clock.monotonic() + (LOOK_AGAIN if self.tight else 0.0)

    def burst(self, left: int, most: int, per: float) -> None:
        """So many calls are left, an answer says, of those allowed in any `per` seconds."""
        left, most = _credible(left), _credible(most)
        if self._spent(most - left, most):
            self._burst_over = self._clock.monotonic() + min(per, DAY)

    def exhausted(self, seconds: float) -> None:
        """The vendor takes no more calls for so many seconds, an answer says."""
        self._exhausted_until = self._clock.monotonic() + min(seconds, DAY)

    async def acquire(self) -> None:
        """Return when a call may be made; for an opt-out, at once."""
        if not urgent.get():
            await self._wait_for_burst()
        if self._limiter is not None:
            await self._limiter.acquire()
        if self._counts:
            self._count()

    @property
    def tight(self) -> bool:
        """Whether, by the last that was heard, what is left of the day is for opt-outs."""
        if self._used is None or self._most is None:
            return False
        return self._spent(self._used, self._most)

    def bulk_wait(self) -> float:
        """Seconds for which only opt-outs go; 0.0: others, too.

        It ends after a quarter of an hour, even if nothing is heard. While the quota is still
        `tight` then, the others go one by one, until an answer says that there is room.
        """
        return max(0.0, max(self._look_at, self._exhausted_until) - self._clock.monotonic())

    def status(self) -> dict[str, Any]:
        """`used` of `most` calls of the day, the `share`, and `until` when only opt-outs go.

        `until` in microseconds since the epoch, None while all go. Empty while nothing is known.
        """
        wait = self.bulk_wait()
        if self._used is None and not wait:
            return {}
        until = int((self._clock.now() + wait) * MICROSECONDS) if wait else None
        return {"used": self._used, "most": self._most, "share": self._share, "until": until}

    def _spent(self, used: int, most: int) -> bool:
        return used >= self._share * most

    async def _wait_for_burst(self) -> None:
        with unmeasured():
            while (wait := self._burst_over - self._clock.monotonic()) > 0:
                await self._clock.sleep(wait)

    def _count(self) -> None:
        """Count a call, where the vendor does not."""
        now = self._clock.monotonic()
        if self._used is None or now >= self._day_ends:
            self._used, self._day_ends, self._look_at = 0, now + DAY, now
        self._used += 1
        if self.tight:
            self._look_at = self._day_ends


def _credible(calls: int) -> int:
    """The number within bounds: one of hundreds of digits ends whoever reckons with it."""
    return min(max(calls, 0), MOST)
