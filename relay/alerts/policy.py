"""The policy: which of the findings are news. Pure; the time is passed in.

An alert is told once when it has lasted, again after `repeat` while it goes on, and once when it
is over. It is over when it was not found for a while, and that while grows with each time it
comes back; and what comes soon after a note waits for the next one. So whatever flaps, a channel
gets few notes.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

CALM = 300.0
"""Seconds for which a told alert must not have been found to be over; doubled at each return."""
DOUBLINGS = 5
GAP = 300.0
"""Seconds between two notes; what happens meanwhile goes together."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong at this moment.

    `subject` is the sink or keyword that it is about, if any; `since` when it began (seconds
    since the epoch), where that is known; it has to last for `hold` seconds to be told.
    """

    rule: str
    subject: str
    text: str
    since: float | None = None
    hold: float = 0.0


@dataclass(slots=True)
class Alert:
    """What is remembered of a finding. `told` and `over`: when that was said last."""

    rule: str
    subject: str
    text: str
    since: float
    seen: float
    hold: float = 0.0
    told: float | None = None
    over: float | None = None
    returns: int = 0

    @property
    def calm(self) -> float:
        """For how long it must not be found to be over."""
        return CALM * 2.0 ** min(self.returns, DOUBLINGS)


@dataclass(frozen=True, slots=True)
class Note:
    """What a channel is to say: what is `new`, what `lasts`, and what is `over`."""

    at: float
    new: list[Alert]
    lasts: list[Alert]
    over: list[Alert]


@dataclass(slots=True)
class Memory:
    """What one channel has been told. Kept over restarts; read back with `from_dict`."""

    alerts: dict[str, Alert] = field(default_factory=dict)
    noted: float | None = None
    """When the last note was taken."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, kept: Mapping[str, Any]) -> Self:
        """Raises TypeError or KeyError for what `to_dict` did not write."""
        alerts = {key: Alert(**alert) for key, alert in kept["alerts"].items()}
        return cls(alerts, kept["noted"])

    def observe(
        self, findings: Iterable[Finding], now: float, *, repeat: float, blind: bool = False
    ) -> None:
        """Take in what is wrong now. `blind`: what is not among it may be wrong all the same."""
        self._not_after(now)
        for finding in findings:
            self._find(finding, now)
        for key, alert in list(self.alerts.items()):
            if blind:
                alert.seen = now
            elif alert.seen < now and alert.told is None:
                alert.since = now  # should it come back, it begins anew
                if _forgotten(alert, now, repeat):
                    del self.alerts[key]

    def note(self, now: float, *, repeat: float) -> Note | None:
        """What is to be said now; None for nothing. `noted` is told when it has been."""
        if self.noted is not None and now - self.noted < GAP:
            return None
        known = self.alerts.values()
        new = [each for each in known if each.told is None and _lasted(each, now)]
        told = [each for each in known if each.told is not None]
        over = [each for each in told if now - each.seen >= each.calm]
        lasts = [each for each in told if each not in over]
        again = any(now - each.told >= repeat for each in lasts if each.told is not None)
        return Note(now, new, lasts, over) if new or over or again else None

    def took(self, note: Note) -> None:
        """The note has been said."""
        self.noted = note.at
        for alert in (*note.new, *note.lasts):
            alert.returns += alert.over is not None
            alert.told, alert.over = note.at, None
        for alert in note.over:
            alert.told, alert.over = None, note.at

    def _find(self, finding: Finding, now: float) -> None:
        key = f"{finding.rule} {finding.subject}"
        since = now if finding.since is None else min(finding.since, now)
        alert = self.alerts.get(key)
        if alert is None:
            alert = Alert(finding.rule, finding.subject, finding.text, since, now)
            self.alerts[key] = alert
        elif finding.since is not None:
            alert.since = since
        alert.seen, alert.text, alert.hold = now, finding.text, finding.hold

    def _not_after(self, now: float) -> None:
        """A clock that was set back must not silence what it has told in its future."""
        if self.noted is not None and self.noted > now:
            self.noted = None
        for alert in self.alerts.values():
            alert.since, alert.seen = min(alert.since, now), min(alert.seen, now)
            alert.told = None if alert.told is None else min(alert.told, now)
            alert.over = None if alert.over is None else min(alert.over, now)


def _lasted(alert: Alert, now: float) -> bool:
    return now - alert.since >= alert.hold and alert.seen == now


def _forgotten(alert: Alert, now: float, repeat: float) -> bool:
    """What was never told, or is over for so long that its next time is a new one."""
    return alert.over is None or now - alert.over >= max(repeat, alert.calm)
