"""A delivery on its way: with the record to write, its word of consent, and how each ended."""

from copy import copy
from dataclasses import dataclass, field, replace

import relay
from relay import NotDelivered, Outcome

from .record import Record


@dataclass(slots=True, eq=False)
class Sent:
    """One delivery: with the record to write, or with its end."""

    delivery: relay.Delivery
    record: Record | None = None
    outcome: Outcome | None = None
    is_stale: bool = False
    is_skipped: bool = False
    consent: Outcome | None = None
    """What became of its word of consent; None where it has none."""
    notes: list[str] = field(default_factory=list)
    """What was left out of its activity, or cut, and which lists it is not in."""

    @property
    def contact(self) -> str | None:
        """The id of the contact, once that is known."""
        done = self.record.outcome if self.record else None
        return done.reference if isinstance(done, relay.Delivered) else None

    def end(self) -> Outcome:
        """What kept the word of consent from being written; else the end of the rest.

        That is the end of its activity, if that failed, else of its contact.
        """
        if isinstance(self.consent, NotDelivered):
            return self.consent
        outcome = self.outcome or (self.record and self.record.outcome) or self.consent
        if isinstance(outcome, NotDelivered) and self.consent is not None:
            outcome = copy(outcome)  # others of the batch may have the same
            outcome.consent = True
        if isinstance(outcome, relay.Delivered) and self.notes:
            return replace(outcome, note="; ".join(filter(None, (outcome.note, *self.notes))))
        return outcome or relay.Retry("nothing was learned of it")
