"""The notification policy: which conditions are news to a channel. Pure; the time is passed in.

A channel is notified of an alert once when it has lasted, again after `repeat` while it goes on,
and once when it is resolved. An alert is resolved when its condition was not seen for a while, and
that while grows with each recurrence. What happens soon after a notification waits for the next
one. So whatever flaps, a channel gets few notifications.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

RESOLVE_AFTER = 300.0
"""Seconds without its condition after which an alert is resolved; doubled at each recurrence."""
MAX_DOUBLINGS = 5
MIN_GAP = 300.0
"""Seconds between two notifications; what happens meanwhile goes together."""

STORED = {"last_seen": "seen", "notified": "told", "resolved": "over", "recurrences": "returns"}
"""Names of an alert's fields in the state file, which files of earlier releases have."""


@dataclass(frozen=True, slots=True)
class AlertCondition:
    """Something that is wrong at this moment.

    `subject` is the sink or keyword that it is about, if any. `since` is when it began (seconds
    since the epoch), where that is known. A condition becomes an alert when it has lasted for
    `hold` seconds.
    """

    rule: str
    subject: str
    text: str
    since: float | None = None
    hold: float = 0.0


@dataclass(slots=True)
class Alert:
    """A condition that was seen, and when a channel was last notified of it and of its end."""

    rule: str
    subject: str
    text: str
    since: float
    last_seen: float
    hold: float = 0.0
    notified: float | None = None
    resolved: float | None = None
    recurrences: int = 0

    @property
    def resolve_after(self) -> float:
        """Seconds without its condition after which it is resolved."""
        return RESOLVE_AFTER * 2.0 ** min(self.recurrences, MAX_DOUBLINGS)


@dataclass(frozen=True, slots=True)
class Notification:
    """What a channel is to send: the alerts that are `new`, `lasting` and `resolved`."""

    at: float
    new: list[Alert]
    lasting: list[Alert]
    resolved: list[Alert]


@dataclass(slots=True)
class ChannelState:
    """The alerts that one channel was notified of, or will be. Kept over restarts."""

    alerts: dict[str, Alert] = field(default_factory=dict)
    last_sent: float | None = None
    """When the last notification was taken."""

    def to_dict(self) -> dict[str, Any]:
        alerts = {
            key: {STORED.get(name, name): value for name, value in asdict(alert).items()}
            for key, alert in self.alerts.items()
        }
        return {"alerts": alerts, "noted": self.last_sent}

    @classmethod
    def from_dict(cls, kept: Mapping[str, Any]) -> Self:
        """Raises TypeError or KeyError for what `to_dict` did not write."""
        names = {stored: name for name, stored in STORED.items()}
        alerts = {
            key: Alert(**{names.get(name, name): value for name, value in alert.items()})
            for key, alert in kept["alerts"].items()
        }
        return cls(alerts, kept["noted"])

    def observe(
        self,
        conditions: Iterable[AlertCondition],
        now: float,
        *,
        repeat: float,
        partial: bool = False,
    ) -> None:
        """Take in what is wrong now. `partial`: what is not among it may be wrong all the same."""
        self._limit_to(now)
        for condition in conditions:
            self._see(condition, now)
        for key, alert in list(self.alerts.items()):
            if partial:
                alert.last_seen = now
            elif alert.last_seen < now and alert.notified is None:
                alert.since = now  # should it recur, it begins then
                if _forgotten(alert, now, repeat):
                    del self.alerts[key]

    def due(self, now: float, *, repeat: float) -> Notification | None:
        """The notification to be sent now, if any. `mark_sent` follows when it was taken."""
        if self.last_sent is not None and now - self.last_sent < MIN_GAP:
            return None
        known = self.alerts.values()
        new = [each for each in known if each.notified is None and _lasted(each, now)]
        notified = [each for each in known if each.notified is not None]
        resolved = [each for each in notified if now - each.last_seen >= each.resolve_after]
        lasting = [each for each in notified if each not in resolved]
        again = any(now - each.notified >= repeat for each in lasting if each.notified is not None)
        return Notification(now, new, lasting, resolved) if new or resolved or again else None

    def mark_sent(self, notification: Notification) -> None:
        """Note that the channel has taken it."""
        self.last_sent = notification.at
        for alert in (*notification.new, *notification.lasting):
            alert.recurrences += alert.resolved is not None
            alert.notified, alert.resolved = notification.at, None
        for alert in notification.resolved:
            alert.notified, alert.resolved = None, notification.at

    def _see(self, condition: AlertCondition, now: float) -> None:
        key = f"{condition.rule} {condition.subject}"
        since = now if condition.since is None else min(condition.since, now)
        alert = self.alerts.get(key)
        if alert is None:
            alert = Alert(condition.rule, condition.subject, condition.text, since, now)
            self.alerts[key] = alert
        elif condition.since is not None:
            alert.since = since
        alert.last_seen, alert.text, alert.hold = now, condition.text, condition.hold

    def _limit_to(self, now: float) -> None:
        """Let no time be after `now`, so that a clock that was set back silences nothing."""
        if self.last_sent is not None and self.last_sent > now:
            self.last_sent = None
        for alert in self.alerts.values():
            alert.since, alert.last_seen = min(alert.since, now), min(alert.last_seen, now)
            alert.notified = None if alert.notified is None else min(alert.notified, now)
            alert.resolved = None if alert.resolved is None else min(alert.resolved, now)


def _lasted(alert: Alert, now: float) -> bool:
    return now - alert.since >= alert.hold and alert.last_seen == now


def _forgotten(alert: Alert, now: float, repeat: float) -> bool:
    """Whether it was never notified, or resolved so long ago that its next time is a new one."""
    return alert.resolved is None or now - alert.resolved >= max(repeat, alert.resolve_after)
