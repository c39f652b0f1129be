"""Readings as a busy relay would give them, for tests of metrics and alerts."""

from collections import Counter
from dataclasses import replace

from prometheus_client import Histogram

from relay.counters import SECONDS, IngressCounters, SinkCounters
from relay.delivery.gate import QuotaUse, SinkStatus
from relay.monitoring.metrics import FACTS, Readings
from relay.store import BacklogAge, Receipt, SinkCounts
from relay.store.sqlite.writer import COMMIT_SECONDS, COMMIT_SIZE, COMMIT_SIZES

NOW = 1_800_000_000.0
MICROSECONDS = 1_000_000


def ago(seconds: float) -> int:
    """A moment before NOW, as the store has it."""
    return int((NOW - seconds) * MICROSECONDS)


def histogram(name, what, bounds, *values) -> Histogram:
    made = Histogram(name, what, buckets=bounds, registry=None)
    for value in values:
        made.observe(value)
    return made


def readings(**changes) -> Readings:
    """Every metric has a sample in these, unless what is changed takes it away."""
    answers = IngressCounters({"sumotext": ("poll",)})
    answers.acknowledged("sumotext", Receipt("an-id", "com.sumotext.poll"), 0.004)
    answers.acknowledged("sumotext", Receipt("an-id", "com.sumotext.poll", repeated=True), 0.02)
    answers.refused("sumotext", 422)
    answers.refused("", 404)
    deliveries = SinkCounters()
    for outcome, number in {"delivered": 3, "retry": 2, "rejected": 1, "paused": 1}.items():
        deliveries.attempts.labels(outcome).inc(number)
    for outcome, number in {"delivered": 3, "dead": 1}.items():
        deliveries.ended.labels(outcome).inc(number)
    deliveries.attempt_seconds.observe(0.3)
    deliveries.delivery_seconds.observe(7)
    state = SinkStatus("paused", "401", quota=QuotaUse(9, 10, 0.9))
    made = Readings(
        at=NOW,
        answers=answers,
        refusals=Counter({431: 2}),
        sinks={"crm": SinkCounts(pending=5, delivered=3, dead=1), "gone": SinkCounts(pending=2)},
        waits={"crm": BacklogAge(ago(120), ago(30)), "gone": BacklogAge(ago(90_000))},
        states={"crm": state},
        breakers=frozenset({"crm"}),
        deliveries={"crm": deliveries},
        statistics={
            "commits": 2,
            "bytes": 4096,
            "wal_bytes": 512,
            "commit_size": histogram(*COMMIT_SIZE, COMMIT_SIZES, 1, 300),
            "commit_seconds": histogram(*COMMIT_SECONDS, SECONDS, 0.002, 0.003),
            "reused_ids": Counter({"sumotext": 3}),
        },
        quarantined=1,
        facts=dict.fromkeys(FACTS, 1.0),
    )
    return replace(made, **changes)
