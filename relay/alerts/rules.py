"""The rules: what of all that can be seen is wrong. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from relay.alerts.policy import Finding
from relay.clock import MICROSECONDS
from relay.config.model import AlertRules
from relay.delivery.gate import SinkStatus
from relay.event import timestamp
from relay.monitoring.metrics import Readings
from relay.redact import mask_all

HALTED = ("paused", "held")


@dataclass(frozen=True, slots=True)
class Look:
    """What the rules look at.

    `dead` is how many deliveries of each sink were given up within the rule's time, and still are;
    `quarantined` when the callback came that makes the quarantine's newest ones so many as the
    rule says are too many; `keywords` when each of the rule's last came. Seconds since the epoch.
    """

    readings: Readings
    dead: Mapping[str, int] = field(default_factory=dict)
    quarantined: float | None = None
    keywords: Mapping[str, float] = field(default_factory=dict)


def findings(look: Look, rules: AlertRules) -> list[Finding]:
    """Everything that is wrong."""
    return [
        *_facts(look.readings.facts),
        *_opt_outs(look.readings, rules),
        *_backlogs(look.readings, rules),
        *_pauses(look.readings, rules),
        *_dead(look, rules),
        *_quarantine(look, rules),
        *_keywords(look, rules),
    ]


UNREADABLE = Finding("store", "", "The store cannot be read; the log says why.")


def _facts(facts: Mapping[str, float]) -> Iterator[Finding]:
    if not facts.get("relay_store_writable", 1.0):
        yield Finding("store", "", "The store cannot be written; the log says why.")
    if not facts.get("relay_spill_readable", 1.0):
        text = "The spill file cannot be read, and callbacks in it wait; the log says why."
        yield Finding("spill", "", text)
    elif facts.get("relay_spill_records"):
        text = "Callbacks go to the spill file, as the store cannot take them; the log says why."
        yield Finding("spill", "", text)
    if not facts.get("relay_configuration_valid", 1.0):
        text = "relay.yaml is wrong, and an older one is in use: `relay check` says where."
        yield Finding("configuration", "", text)


def _opt_outs(readings: Readings, rules: AlertRules) -> Iterator[Finding]:
    for sink, waits in readings.waits.items():
        since = _seconds(waits.opt_out_since)
        if since is not None and readings.at - since >= rules.opt_out_undelivered:
            text = f"An opt-out has not reached the sink {sink}."
            yield Finding("opt_out_undelivered", sink, text, since)


def _backlogs(readings: Readings, rules: AlertRules) -> Iterator[Finding]:
    for sink, waits in readings.waits.items():
        since = _seconds(waits.since)
        # One that is disabled, or has gone, has no state: it is left to wait on purpose.
        if sink not in readings.states or since is None:
            continue
        if readings.at - since >= rules.backlog_age:
            number = readings.sinks[sink].pending
            text = f"Deliveries wait for the sink {sink} ({number} by now)."
            yield Finding("backlog_age", sink, text, since)


def _pauses(readings: Readings, rules: AlertRules) -> Iterator[Finding]:
    if rules.sink_paused == float("inf"):
        return
    for sink, report in readings.states.items():
        if report.state in HALTED:
            reason = mask_all(str(report.reason))
            since = _since(report.since)
            text = f"The sink {sink} is {report.state}{since}: {reason}. {_advice(sink, report)}"
            yield Finding("sink_paused", sink, text, hold=rules.sink_paused)


def _dead(look: Look, rules: AlertRules) -> Iterator[Finding]:
    many = rules.dead
    if many is None:
        return
    for sink, number in look.dead.items():
        if number >= many.count:
            text = (
                f"Deliveries to the sink {sink} were given up ({number} within {_span(many.per)});"
                " `relay dead list` says why."
            )
            yield Finding("dead", sink, text)


def _quarantine(look: Look, rules: AlertRules) -> Iterator[Finding]:
    many = rules.quarantine
    if many is None or look.quarantined is None:
        return
    if look.readings.at - look.quarantined <= many.per:
        text = f"{many.count} callbacks or more went to quarantine within {_span(many.per)}."
        yield Finding("quarantine", "", text, look.quarantined)


def _keywords(look: Look, rules: AlertRules) -> Iterator[Finding]:
    for keyword, limit in rules.keyword_silent.items():
        last = look.keywords.get(keyword)
        if last is not None and look.readings.at - last >= limit:
            text = f"Nothing has come for the keyword {keyword} for {_span(limit)}."
            yield Finding("keyword_silent", keyword, text, last)


def _since(microseconds: int | None) -> str:
    return f" since {timestamp(microseconds)[:19]}Z" if microseconds else ""


def _advice(sink: str, report: SinkStatus) -> str:
    """What to do about a sink that does not deliver."""
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
