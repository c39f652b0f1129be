"""Rate limits: a token bucket, and a bucket that many senders share."""

import math
from collections import OrderedDict
from collections.abc import Callable

from relay.units import Rate

SENDERS = 4096
"""The most senders whose use of a shared bucket is remembered."""
MEMORY = 600.0
"""Seconds in which a sender's use of a shared bucket fades to about a third."""


class Bucket:
    """A token bucket; `now` gives seconds that only go forward."""

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


class SharedBucket:
    """A token bucket of which each sender gets a share.

    A sender has to leave as much in the bucket as it took lately. So one that takes much gets what
    the others leave, and one that takes little finds something, however many the others are.
    """

    def __init__(self, rate: Rate, now: Callable[[], float]) -> None:
        self._bucket = Bucket(rate, now)
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
