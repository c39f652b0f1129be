"""The alert rules: what is wrong at this moment. Pure, but for the reading of keywords."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from relay.alerts.policy import AlertCondition
from relay.clock import MICROSECONDS
from relay.config.model import AlertRules
from relay.delivery.gate import SinkStatus
from relay.event import timestamp
from relay.monitoring.metrics import Readings
from relay.redact import mask_all
from relay.store.port import Store

HALTED = ("paused", "held")
MAX_EVENTS = 20_000
"""Events that are searched for keywords at once; the next evaluation goes on from there."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the rules are evaluated on.

    `dead` is how many deliveries of each sink were given up within the rule's time, and still are;
    `quarantined` when the callback came that makes the quarantine's newest ones so many as the
    rule says are too many; `keywords` when each of the rule's last came. Seconds since the epoch.
    """

    readings: Readings
    dead: Mapping[str, int] = field(default_factory=dict)
    quarantined: float | None = None
    keywords: Mapping[str, float] = field(default_factory=dict)


class KeywordActivity:
    """When each keyword that must not fall silent came last.

    Each event is read once. A keyword that has not come yet counts from the first read on.
    """

    def __init__(self, wanted: Iterable[str], last: dict[str, float]) -> None:
        self.last = {keyword: last[keyword] for keyword in wanted if keyword in last}
        self._wanted = {keyword.upper(): keyword for keyword in wanted}
        self._seq: int | None = None

    async def update(self, store: Store, now: float) -> None:
        """Read the events since the last call."""
        if not self._wanted:
            return
        if self._seq is None:
            self._seq = max(0, await store.last_seq() - MAX_EVENTS)
        self._seq, came = await store.keywords(after=self._seq, limit=MAX_EVENTS)
        for keyword in self._wanted.values():
            # Not from the future, which a clock that was set back leaves behind.
            self.last[keyword] = min(now, self.last.get(keyword, now))
        for spelling, received in came.items():
            if known := self._wanted.get(spelling.upper()):
                self.last[known] = min(now, received / MICROSECONDS)


def conditions(snapshot: Snapshot, rules: AlertRules) -> list[AlertCondition]:
    """Everything that is wrong."""
    return [
        *_facts(snapshot.readings.facts),
        *_opt_outs(snapshot.readings, rules),
        *_backlogs(snapshot.readings, rules),
        *_pauses(snapshot.readings, rules),
        *_dead(snapshot, rules),
        *_quarantine(snapshot, rules),
        *_keywords(snapshot, rules),
    ]


UNREADABLE = AlertCondition("store", "", "The store cannot be read; the log says why.")


def _facts(facts: Mapping[str, float]) -> Iterator[AlertCondition]:
    if not facts.get("relay_store_writable", 1.0):
        yield AlertCondition("store", "", "The store cannot be written; the log says why.")
    if not facts.get("relay_spill_readable", 1.0):
        text = "The spill file cannot be read, and callbacks in it wait; the log says why."
        yield AlertCondition("spill", "", text)
    elif facts.get("relay_spill_records"):
        text = "Callbacks go to the spill file, as the store cannot take them; the log says why."
        yield AlertCondition("spill", "", text)
    if not facts.get("relay_configuration_valid", 1.0):
        text = "relay.yaml is wrong, and an older one is in use: `relay check` says where."
        yield AlertCondition("configuration", "", text)


def _opt_outs(readings: Readings, rules: AlertRules) -> Iterator[AlertCondition]:
    for sink, waits in readings.waits.items():
        since = _seconds(waits.opt_out_since)
        if since is not None and readings.at - since >= rules.opt_out_undelivered:
            text = f"An opt-out has not reached the sink {sink}."
            yield AlertCondition("opt_out_undelivered", sink, text, since)


def _backlogs(readings: Readings, rules: AlertRules) -> Iterator[AlertCondition]:
    for sink, waits in readings.waits.items():
        since = _seconds(waits.since)
        # One that is disabled, or has gone, has no state: it is left to wait on purpose.
        if sink not in readings.states or since is None:
            continue
        if readings.at - since >= rules.backlog_age:
            number = readings.sinks[sink].pending
            text = f"Deliveries wait for the sink {sink} ({number} by now)."
            yield AlertCondition("backlog_age", sink, text, since)


def _pauses(readings: Readings, rules: AlertRules) -> Iterator[AlertCondition]:
    if rules.sink_paused == float("inf"):
        return
    for sink, report in readings.states.items():
        if report.state in HALTED:
            reason = mask_all(str(report.reason)).rstrip(".")
            since = _since(report.since)
            text = f"The sink {sink} is {report.state}{since}: {reason}. {_advice(sink, report)}"
            yield AlertCondition("sink_paused", sink, text, hold=rules.sink_paused)


def _dead(snapshot: Snapshot, rules: AlertRules) -> Iterator[AlertCondition]:
    many = rules.dead
    if many is None:
        return
    for sink, number in snapshot.dead.items():
        if number >= many.count:
            text = (
                f"Deliveries to the sink {sink} were given up ({number} within {_span(many.per)});"
                " `relay dead list` says why."
            )
            yield AlertCondition("dead", sink, text)


def _quarantine(snapshot: Snapshot, rules: AlertRules) -> Iterator[AlertCondition]:
    many = rules.quarantine
    if many is None or snapshot.quarantined is None:
        return
    if snapshot.readings.at - snapshot.quarantined <= many.per:
        text = f"{many.count} callbacks or more went to quarantine within {_span(many.per)}."
        yield AlertCondition("quarantine", "", text, snapshot.quarantined)


def _keywords(snapshot: Snapshot, rules: AlertRules) -> Iterator[AlertCondition]:
    for keyword, limit in rules.keyword_silent.items():
        last = snapshot.keywords.get(keyword)
        if last is not None and snapshot.readings.at - last >= limit:
            text = f"Nothing has come for the keyword {keyword} for {_span(limit)}."
            yield AlertCondition("keyword_silent", keyword, text, last)


def _since(microseconds: int | None) -> str:
    return f" since {timestamp(microseconds)[:19]}Z" if microseconds else ""


def _advice(sink: str, report: SinkStatus) -> str:
    """What an operator can do about a halted sink."""
    resume = f"`relay sinks resume {sink}`"
    if report.state == "held":
        return f"Mend its plugin, then say {resume}."
    if report.until is None:
        return f"Somebody has paused it: {resume} ends that."
    return f"Mend the cause: it is tried again every five minutes, and at once with {resume}."


def _seconds(microseconds: int | None) -> float | None:
    return None if microseconds is None else microseconds / MICROSECONDS


def _span(seconds: float) -> str:
    """`24 h`, `90 min`, `45 s`."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size and seconds % size == 0 and not (unit == "d" and seconds == size):
            return f"{seconds / size:g} {unit}"
    return f"{seconds:g} s"
