"""An entry on a timeline: what one event leaves there."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import relay
from relay import Outcome

MILLISECONDS = len("2026-11-23T04:34:00.123")


@dataclass(slots=True, eq=False)
class Entry:
    """An event that is to stand on the timeline of `contact`, an id; `outcome` is its end.

    `notes` say what was left out or cut.
    """

    delivery: relay.Delivery
    contact: str
    notes: list[str] = field(default_factory=list)
    outcome: Outcome | None = None


def end(entries: Iterable[Entry], outcome: Outcome) -> None:
    """The same end for all that have none."""
    for entry in entries:
        entry.outcome = entry.outcome or outcome


def moment(time: str) -> str:
    """An event's time in milliseconds, as HubSpot keeps them."""
    return f"{time[:MILLISECONDS]}Z" if len(time) > MILLISECONDS else time
