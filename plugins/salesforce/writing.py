"""The writing: one delivery, with the rows that it is made of."""

from copy import copy

import relay
from relay import NotDelivered, Outcome

from .row import Row  # noqa: TC001  one way to import


class Writing:
    """One delivery with the rows that it is made of.

    `consented` is the id of a record that its word of consent is written to.
    """

    def __init__(self, delivery: relay.Delivery) -> None:
        self.delivery = delivery
        self.key = ""
        self.ended: Outcome | None = None
        self.is_skipped = False
        self.consent: Outcome | None = None
        self.consented: str | None = None
        self.contact: Row | None = None
        self.member: Row | None = None
        self.activity: Row | None = None

    def is_written(self) -> bool:
        return self.contact is not None and isinstance(self.contact.outcome, relay.Delivered)

    def is_ready(self) -> bool:
        """Whether there is an activity, and the contact for it to point to."""
        if self.ended is not None or self.activity is None:
            return False
        return self.contact is None or self.is_written()

    def person(self) -> str | None:
        """The id of the person's record, where anything was written to it."""
        return self.reference() or self.consented

    def reference(self) -> str | None:
        """The contact's record id."""
        return self.contact.reference() if self.contact else None

    def outcome(self) -> Outcome:
        """What kept the word of consent from being written; else what failed first of the rest."""
        if isinstance(self.consent, NotDelivered):
            return self.consent
        outcome = self.ended or self._of_rows()
        if isinstance(outcome, NotDelivered) and self.consent is not None:
            outcome = copy(outcome)  # others of the batch may have the same
            outcome.consent = True
        return outcome

    def _of_rows(self) -> Outcome:
        ends = [row.outcome for row in (self.contact, self.member, self.activity) if row]
        if not ends and self.consent is not None:
            return self.consent
        failed = next((end for end in ends if isinstance(end, NotDelivered)), None)
        outcome = failed or ends[0] or relay.Retry("nothing was said about this record")
        notes = [note for row in (self.contact, self.activity) if row for note in row.notes]
        if notes and isinstance(outcome, relay.Delivered):
            return relay.Delivered(outcome.reference, "; ".join(notes))
        return outcome
