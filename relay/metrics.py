"""What Prometheus reads: counted by the parts themselves, put into words here."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from relay.store import SinkCounts

SINK_STATES = ("running", "parked", "paused")


@dataclass(frozen=True, slots=True)
class Readings:
    """One look at everything.

    `answers` by (source, status); `refusals` by the status of what reached no source; `sinks` and
    `states` by the sink's name; `statistics` as the store gives them.
    """

    answers: Mapping[tuple[str, int], int]
    refusals: Mapping[int, int]
    sinks: Mapping[str, SinkCounts]
    states: Mapping[str, Mapping[str, Any]]
    statistics: Mapping[str, int]


def exposition(readings: Readings) -> bytes:
    """The readings in Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(_Once(_families(readings)))
    return generate_latest(registry)


class _Once(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> Iterable[Metric]:
        return self._families


def _families(readings: Readings) -> Iterator[Metric]:
    callbacks = CounterMetricFamily(
        "relay_callbacks", "Callbacks answered.", labels=["source", "status"]
    )
    for (source, status), number in readings.answers.items():
        callbacks.add_metric([source, str(status)], number)
    yield callbacks

    refused = CounterMetricFamily(
        "relay_refused_requests", "Requests refused before any source saw them.", labels=["status"]
    )
    for status, number in readings.refusals.items():
        refused.add_metric([str(status)], number)
    yield refused

    deliveries = GaugeMetricFamily(
        "relay_deliveries", "Deliveries in the store.", labels=["sink", "state"]
    )
    for sink, counts in readings.sinks.items():
        deliveries.add_metric([sink, "pending"], counts.pending)
        deliveries.add_metric([sink, "delivered"], counts.delivered)
        deliveries.add_metric([sink, "dead"], counts.dead)
    yield deliveries

    states = GaugeMetricFamily(
        "relay_sink_state", "1 for the state that the sink is in.", labels=["sink", "state"]
    )
    for sink, report in readings.states.items():
        for state in SINK_STATES:
            states.add_metric([sink, state], float(report["state"] == state))
    yield states

    quotas = GaugeMetricFamily(
        "relay_sink_quota_used_ratio",
        "How much of the calls that the vendor allows in a day is used.",
        labels=["sink"],
    )
    for sink, report in readings.states.items():
        quota = report.get("quota") or {}
        if quota.get("most"):
            quotas.add_metric([sink], quota["used"] / quota["most"])
    yield quotas

    commits = CounterMetricFamily("relay_store_commits", "Commits, each of which is one fsync.")
    commits.add_metric([], readings.statistics["commits"])
    yield commits
    for name, what in (("bytes", "the store's file"), ("wal_bytes", "its write-ahead log")):
        size = GaugeMetricFamily(f"relay_store_{name}", f"Size of {what}.")
        size.add_metric([], readings.statistics[name])
        yield size
