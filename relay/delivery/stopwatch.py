"""How long a sink was really tried: time parked, paused or switched off does not count."""

from relay.clock import Clock


class ActiveClock:
    """Seconds, going on from `start_at`, that pass only between `go` and `halt`."""

    def __init__(self, clock: Clock, start_at: float = 0.0) -> None:
        self._clock = clock
        self._passed = start_at
        self._since: float | None = None

    def go(self) -> None:
        if self._since is None:
            self._since = self._clock.monotonic()

    def halt(self) -> None:
        self._passed = self.now()
        self._since = None

    def now(self) -> float:
        """The seconds so far."""
        if self._since is None:
            return self._passed
        return self._passed + self._clock.monotonic() - self._since
