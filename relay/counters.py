"""Counters and histograms that the ingress and the sinks' workers fill, and the metrics show."""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import accumulate

from relay.outcome import Outcome, word_of
from relay.store import Receipt, State

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""For what a caller waits for."""
LONG_SECONDS = (0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 21600.0, 86400.0)
"""For what may have to wait for its other side."""
PIECES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0)


class Histogram:
    """What Prometheus' own does, without its locks: one thread observes, any other may look."""

    __slots__ = ("_bounds", "_counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self.total += value

    def buckets(self) -> list[tuple[str, float]]:
        """(upper bound, how many up to it), as an exposition has them."""
        names = [*map(str, self._bounds), "+Inf"]
        return list(zip(names, accumulate(map(float, self._counts)), strict=True))


OUTCOMES = {
    401: "unauthorized",
    403: "forbidden",
    404: "unknown_source",
    405: "wrong_method",
    422: "quarantined",
    429: "limited",
    503: "not_stored",
}
WATCHED = ("quarantined", "unauthorized", "limited", "not_stored")


class IngressCounters:
    """Every answer to a callback, by source, type of event and outcome.

    A source that nobody configured counts as "", and so does the type of what became no event.
    """

    def __init__(self, sources: Iterable[str] = ()) -> None:
        # From nought on: of a counter that begins with its first event Prometheus sees no increase.
        self.counts: Counter[tuple[str, str, str]] = Counter(
            {(source, "", outcome): 0 for source in sources for outcome in WATCHED}
        )
        self.seconds: dict[str, Histogram] = defaultdict(lambda: Histogram(SECONDS))

    def acknowledged(self, source: str, receipt: Receipt, seconds: float) -> None:
        """It is on disk, and was after so many seconds."""
        outcome = "repeated" if receipt.repeated else "accepted"
        self.counts[source, receipt.type, outcome] += 1
        self.seconds[source].observe(seconds)

    def refused(self, source: str, status: int) -> None:
        self.counts[source, "", OUTCOMES.get(status, str(status))] += 1


class SinkCounters:
    """One sink's attempts and deliveries since the start of the process, by how they ended."""

    def __init__(self) -> None:
        self.attempts = Counter(dict.fromkeys(("delivered", "retry", "rejected", "paused"), 0))
        self.ended = Counter(dict.fromkeys(("delivered", "dead"), 0))
        self.attempt_seconds = Histogram(SECONDS)
        self.delivery_seconds = Histogram(LONG_SECONDS)

    def attempted(
        self, outcome: Outcome, seconds: float, state: State, since_receipt: float | None
    ) -> None:
        """Count an attempt, and the delivery where its state now is an end.

        `since_receipt` is None for a replay, which somebody asked for long after the receipt.
        """
        self.attempts[word_of(outcome)] += 1
        self.attempt_seconds.observe(seconds)
        if state == State.DELIVERED:
            self.ended["delivered"] += 1
            if since_receipt is not None:
                self.delivery_seconds.observe(max(0.0, since_receipt))
        elif state == State.DEAD:
            self.ended["dead"] += 1
