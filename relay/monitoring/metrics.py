"""The metrics that Prometheus reads, put together from what the parts of the relay counted.

Counters start with the process; what is in the store outlives it.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from relay.clock import MICROSECONDS
from relay.counters import (
    ATTEMPT_SECONDS,
    ATTEMPTS,
    DELIVERY_SECONDS,
    ENDED,
    IngressCounters,
    SinkCounters,
)
from relay.delivery.gate import SinkStatus
from relay.store import BacklogAge, SinkCounts
from relay.version import version

SINK_STATES = ("running", "parked", "paused", "held")


@dataclass(frozen=True, slots=True)
class Readings:
    """One look at everything.

    `at` in seconds since the epoch; `refusals` by the status of what reached no source; `sinks`,
    `waits`, `states` and `deliveries` by the sink's name; `breakers` are the sinks with a breaker
    is open; `statistics` as the store gives them; `facts` are single figures by their metric's
    name, as in FACTS.
    """

    at: float
    answers: IngressCounters
    refusals: Mapping[int, int]
    sinks: Mapping[str, SinkCounts]
    waits: Mapping[str, BacklogAge]
    states: Mapping[str, SinkStatus]
    breakers: frozenset[str]
    deliveries: Mapping[str, SinkCounters]
    statistics: Mapping[str, Any]
    quarantined: int
    facts: Mapping[str, float] = field(default_factory=dict)


FACTS = {
    "relay_store_writable": "1 while the store can be written.",
    "relay_configuration_valid": "0 while relay.yaml is wrong and an older one is in use.",
    "relay_connections": "Open connections to the public listener.",
    "relay_spill_records": "Callbacks in the spill file, which the store does not have yet.",
    "relay_spill_readable": "0 while the spill file cannot be opened or read.",
}


def exposition(readings: Readings) -> bytes:
    """The readings in Prometheus' text format."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(_Once(_families(readings)))
    return generate_latest(registry)


class _Once(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> Iterable[Metric]:
        return self._families


def _families(readings: Readings) -> Iterator[Metric]:
    yield InfoMetricFamily("relay_build", "The release of the relay.", value={"version": version()})
    yield from _ingress(readings)
    yield from _deliveries(readings)
    yield from _sinks(readings)
    yield from _store(readings)
    for name, value in readings.facts.items():
        yield GaugeMetricFamily(name, FACTS[name], value=value)


def _ingress(readings: Readings) -> Iterator[Metric]:
    yield _collected(readings.answers.callbacks)
    refused = CounterMetricFamily(
        "relay_refused_requests",
        "Requests that were refused before they reached a source.",
        labels=["status"],
    )
    for status, number in readings.refusals.items():
        refused.add_metric([str(status)], number)
    yield refused

    yield _collected(readings.answers.seconds)


def _deliveries(readings: Readings) -> Iterator[Metric]:
    sinks = readings.deliveries.items()
    for (name, what), kind, parts in (
        (ATTEMPTS, "counter", {sink: each.attempts for sink, each in sinks}),
        (ENDED, "counter", {sink: each.ended for sink, each in sinks}),
        (ATTEMPT_SECONDS, "histogram", {sink: each.attempt_seconds for sink, each in sinks}),
        (DELIVERY_SECONDS, "histogram", {sink: each.delivery_seconds for sink, each in sinks}),
    ):
        family = Metric(name, what, kind)
        for sink, part in parts.items():
            for sample in _collected(part).samples:
                family.add_sample(sample.name, {"sink": sink, **sample.labels}, sample.value)
        yield family


def _sinks(readings: Readings) -> Iterator[Metric]:
    now = readings.at * MICROSECONDS
    pending = _gauge("relay_sink_pending_deliveries", "Deliveries that are not made yet.")
    dead = _gauge("relay_sink_dead_deliveries", "Deliveries that are dead: an operator has to act.")
    age = _gauge(
        "relay_sink_oldest_pending_age_seconds", "Age of the oldest pending delivery, or 0."
    )
    opt_out_age = _gauge(
        "relay_sink_oldest_opt_out_age_seconds",
        "Age of the oldest opt-out that is not delivered, or 0.",
    )
    for sink, counts in readings.sinks.items():
        waits = readings.waits.get(sink, BacklogAge())
        pending.add_metric([sink], counts.pending)
        dead.add_metric([sink], counts.dead)
        age.add_metric([sink], _age(waits.since, now))
        opt_out_age.add_metric([sink], _age(waits.opt_out_since, now))
    yield from (pending, dead, age, opt_out_age)

    states = GaugeMetricFamily(
        "relay_sink_state", "1 for the state that the sink is in.", labels=["sink", "state"]
    )
    breakers = _gauge("relay_sink_breaker_open", "1 while the sink is parked after failures.")
    quotas = _gauge(
        "relay_sink_quota_used_ratio",
        "Used share of the calls that the vendor allows in a day.",
    )
    for sink, report in readings.states.items():
        for state in SINK_STATES:
            states.add_metric([sink, state], float(report.state == state))
        breakers.add_metric([sink], float(sink in readings.breakers))
        quota = report.quota
        if quota and quota.most and quota.used is not None:
            quotas.add_metric([sink], quota.used / quota.most)
    yield from (states, breakers, quotas)


def _store(readings: Readings) -> Iterator[Metric]:
    statistics = readings.statistics
    if not statistics:  # the store cannot be opened
        return
    for name, what in (("bytes", "the store's file"), ("wal_bytes", "the store's write-ahead log")):
        yield GaugeMetricFamily(f"relay_store_{name}", f"Size of {what}.", value=statistics[name])
    yield GaugeMetricFamily(
        "relay_quarantined_callbacks", "Callbacks in quarantine.", value=readings.quarantined
    )
    yield _reused_ids(statistics["reused_ids"])
    yield _collected(statistics["commit_size"])
    yield _collected(statistics["commit_seconds"])


def _reused_ids(counts: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(
        "relay_reused_message_ids",
        "Messages with the id of an earlier message, but another number or text.",
        labels=["source"],
    )
    for source, number in counts.items():
        family.add_metric([source], number)
    return family


def _gauge(name: str, what: str) -> GaugeMetricFamily:
    """One figure for each sink."""
    return GaugeMetricFamily(name, what, labels=["sink"])


def _collected(metric: Counter | Histogram) -> Metric:
    """The counters without the time of their creation, which is of no use here."""
    (family,) = metric.collect()
    family.samples = [each for each in family.samples if not each.name.endswith("_created")]
    return family


def _age(since: int | None, now: float) -> float:
    """Seconds; none where a clock that was set back says that it comes from the future."""
    return 0.0 if since is None else max(0.0, now - since) / MICROSECONDS
