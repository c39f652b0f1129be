"""Counters and histograms that the ingress and the sinks' workers fill, and the metrics show."""

from collections.abc import Collection, Mapping
from functools import cache

from prometheus_client import Counter, Histogram

from relay.event import kind_of
from relay.outcome import Outcome, word_of
from relay.store import Receipt, State

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Buckets for what a caller waits for."""
LONG_SECONDS = (0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 21600.0, 86400.0)
"""Buckets for what may have to wait for its other side."""

OUTCOMES = {
    401: "unauthorized",
    403: "forbidden",
    404: "unknown_source",
    405: "wrong_method",
    422: "quarantined",
    429: "limited",
    503: "not_stored",
}
OTHER = "other"
"""The kind of events whose source does not name it in `kinds`."""
WATCHED = ("quarantined", "unauthorized", "limited", "not_stored")

ATTEMPTS = ("relay_delivery_attempts", "Attempts of deliveries, by outcome.")
ENDED = ("relay_deliveries", "Deliveries that ended, by outcome.")
ATTEMPT_SECONDS = ("relay_delivery_attempt_seconds", "How long an attempt took.")
DELIVERY_SECONDS = (
    "relay_delivery_seconds",
    "Time from the receipt of a callback until its delivery.",
)
"""Name and description of each metric of a sink."""


class IngressCounters:
    """Every answer to a callback, by source, kind of event and outcome.

    `kinds` has the kinds of each source. Another kind counts as "other": a vendor may make up any.
    A source that is not configured counts as "", and so does the kind of a callback without event.
    No registry holds them: the page of metrics is put together from what a service has.
    """

    def __init__(self, kinds: Mapping[str, Collection[str]]) -> None:
        self.callbacks = Counter(
            "relay_callbacks",
            "Callbacks, by the answer and by the kind of the event.",
            ["source", "kind", "outcome"],
            registry=None,
        )
        self.seconds = Histogram(
            "relay_acknowledgement_seconds",
            "Time from a whole request until its callback is on disk.",
            ["source"],
            buckets=SECONDS,
            registry=None,
        )
        # To look a child up by its labels costs more than to count: it is done once for each.
        self._count_of = cache(self.callbacks.labels)
        self._seconds_of = cache(self.seconds.labels)
        # From nought on: of a counter that begins with its first event Prometheus sees no increase.
        self._kinds = kinds
        for source in kinds:
            for outcome in WATCHED:
                self._count_of(source, "", outcome)

    def acknowledged(self, source: str, receipt: Receipt, seconds: float) -> None:
        """It is on disk, and was after so many seconds."""
        outcome = "repeated" if receipt.repeated else "accepted"
        kind = kind_of(receipt.type)
        if kind not in self._kinds[source]:
            kind = OTHER
        self._count_of(source, kind, outcome).inc()
        self._seconds_of(source).observe(seconds)

    def answered(self, source: str) -> None:
        """The source gave an answer of its own, and nothing was to be stored."""
        self._count_of(source, "", "answered").inc()

    def refused(self, source: str, status: int) -> None:
        self._count_of(source, "", OUTCOMES.get(status, str(status))).inc()


class SinkCounters:
    """One sink's attempts and deliveries since the start of the process, by how they ended."""

    def __init__(self) -> None:
        self.attempts = Counter(*ATTEMPTS, ["outcome"], registry=None)
        self.ended = Counter(*ENDED, ["outcome"], registry=None)
        self.attempt_seconds = Histogram(*ATTEMPT_SECONDS, buckets=SECONDS, registry=None)
        self.delivery_seconds = Histogram(*DELIVERY_SECONDS, buckets=LONG_SECONDS, registry=None)
        for outcome in ("delivered", "retry", "rejected", "paused"):
            self.attempts.labels(outcome)
        for outcome in ("delivered", "dead"):
            self.ended.labels(outcome)

    def attempted(
        self, outcome: Outcome, seconds: float, state: State, since_receipt: float | None
    ) -> None:
        """Count an attempt, and the delivery where its state now is an end.

        `since_receipt` is None for a replay, as it may begin long after the receipt.
        """
        self.attempts.labels(word_of(outcome)).inc()
        self.attempt_seconds.observe(seconds)
        if state == State.DELIVERED:
            self.ended.labels("delivered").inc()
            if since_receipt is not None:
                self.delivery_seconds.observe(max(0.0, since_receipt))
        elif state == State.DEAD:
            self.ended.labels("dead").inc()
