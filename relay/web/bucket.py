"""The bucket: so many at once, and as many again in every so many seconds."""

from collections.abc import Callable

from relay.units import Rate


class Bucket:
    """A token bucket; `now` gives seconds that only go forward."""

    __slots__ = ("_at", "_left", "_now", "_size", "_speed")

    def __init__(self, rate: Rate, now: Callable[[], float]) -> None:
        self._size = float(rate.count)
        self._speed = rate.count / rate.per
        self._left = self._size
        self._now = now
        self._at = now()

    def take(self, amount: float = 1.0) -> float:
        """0.0, and it is taken; or the seconds after which it could be.

        What is larger than the bucket is taken from a full one, and those after it wait.
        """
        now = self._now()
        left = min(self._size, self._left + (now - self._at) * self._speed)
        self._at = now
        missing = min(amount, self._size) - left
        self._left = left if missing > 0 else left - amount
        return missing / self._speed if missing > 0 else 0.0
