"""Tallies: what the ingress answered and how soon, and what became of one sink's deliveries."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from datetime import datetime

from relay.delivery.sender import Result
from relay.monitoring.histogram import LONG_SECONDS, SECONDS, Histogram
from relay.outcome import word_of
from relay.store import Receipt, Settlement, State

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


class Answers:
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


class Deliveries:
    """One sink's attempts and deliveries since the start of the process, by how they ended."""

    def __init__(self) -> None:
        self.attempts = Counter(dict.fromkeys(("delivered", "retry", "rejected", "paused"), 0))
        self.ended = Counter(dict.fromkeys(("delivered", "dead"), 0))
        self.attempt_seconds = Histogram(SECONDS)
        self.delivery_seconds = Histogram(LONG_SECONDS)

    def concluded(self, result: Result, settlement: Settlement, now: float) -> None:
        """Count an attempt, and the delivery where that was its last one."""
        self.attempts[word_of(result.outcome)] += 1
        self.attempt_seconds.observe(result.duration)
        if settlement.state == State.DELIVERED:
            self.ended["delivered"] += 1
            if not result.claim.replayed:  # somebody asked for it long after it came
                received = datetime.fromisoformat(result.claim.event.time).timestamp()
                self.delivery_seconds.observe(max(0.0, now - received))
        elif settlement.state == State.DEAD:
            self.ended["dead"] += 1
