"""Records to write: one row each, where it goes, and the rows that one delivery consists of."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Any

import orjson

import relay
from relay import NotDelivered, Outcome

from .errors import (
    ApiError,
)

MOST_ROWS = 200
MOST_BYTES = 1024 * 1024
OPENING = b'{"allOrNone":false,"records":['
CLOSING = b"]}"
AROUND = len(OPENING + CLOSING)


@dataclass(slots=True, eq=False)
class Row:
    """One record to write, and its outcome.

    `id` is that of a record which is there already and is to be updated; `has_key` says that this
    record has a key, which stays as it is. `kind` is the object, where a sink has several.
    `refusals` are the errors of the last try, `mended` the ways in which it has been mended so
    far, with the field, and `notes` say what was left out or cut.
    """

    delivery: relay.Delivery
    key: str
    fields: dict[str, Any]
    id: str | None = None
    kind: str = ""
    has_key: bool = False
    api_errors: list[ApiError] = field(default_factory=list)
    repairs: set[tuple[str, str]] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)
    outcome: Outcome | None = None

    def reference(self) -> str | None:
        """The id of the record that was written; None for a row that was not."""
        return self.outcome.reference if isinstance(self.outcome, relay.Delivered) else None

    def identity(self) -> str:
        """Rows of the same one never go together. External ids do not differ by case."""
        return self.id or self.key.casefold()


def fields_of(
    record: Mapping[str, Any], external_id: str, only_if_empty: Iterable[str] = ()
) -> dict[str, Any]:
    """The record as Salesforce takes it: its key is ours to write, a list is `a;b` (picklists).

    A null clears nothing that is only filled where it is empty.
    """
    own = {"id", "attributes", external_id.casefold()}
    kept = {name.casefold() for name in only_if_empty}
    return {
        name: plain(value)
        for name, value in record.items()
        if name.casefold() not in own and not (value is None and name.casefold() in kept)
    }


def packed(rows: Sequence[tuple[Row, bytes]], most: int) -> Iterator[list[tuple[Row, bytes]]]:
    """Requests of `most` rows and 1 MiB at the most each."""
    request: list[tuple[Row, bytes]] = []
    size = AROUND
    for row, encoded in rows:
        if request and (len(request) == most or size + len(encoded) > MOST_BYTES):
            yield request
            request, size = [], AROUND
        request.append((row, encoded))
        size += len(encoded) + 1
    if request:
        yield request


def body(encoded: Sequence[bytes]) -> bytes:
    return OPENING + b",".join(encoded) + CLOSING


def encoded(record: dict[str, Any]) -> bytes:
    """The record's JSON. Raises Reject for one that has none, or too much of it."""
    try:
        written = orjson.dumps(record)
    except TypeError as error:
        raise relay.Reject(f"the record cannot be written as JSON: {error}") from None
    if len(written) + AROUND > MOST_BYTES:
        raise relay.Reject("the record is larger than 1 MiB")
    return written


def plain(value: Any) -> Any:
    if isinstance(value, list):
        return ";".join(str(each) for each in value)
    return value


COLLECTIONS = "composite/sobjects"


@dataclass(frozen=True, slots=True)
class Target:
    """Where rows go: upserted by `external_id`, or only ever inserted where that is empty."""

    object: str
    external_id: str = ""

    def request(self, row: Row) -> tuple[str, str]:
        """Method and path for the row: one that has an id is updated."""
        if row.id is not None:
            return "PATCH", COLLECTIONS
        if self.external_id:
            return "PATCH", f"{COLLECTIONS}/{self.object}/{self.external_id}"
        return "POST", COLLECTIONS

    def record(self, row: Row) -> dict[str, Any]:
        key = {self.external_id: row.key} if self.external_id and not row.has_key else {}
        known = {} if row.id is None else {"id": row.id}
        return {"attributes": {"type": self.object}, **known, **key, **row.fields}


class BatchItem:
    """One delivery of a batch, with the rows to write for it.

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
        outcome = self.ended or self._outcome_of_rows()
        if isinstance(outcome, NotDelivered) and self.consent is not None:
            outcome = copy(outcome)  # others of the batch may have the same
            outcome.consent = True
        return outcome

    def _outcome_of_rows(self) -> Outcome:
        ends = [row.outcome for row in (self.contact, self.member, self.activity) if row]
        if not ends and self.consent is not None:
            return self.consent
        failed = next((end for end in ends if isinstance(end, NotDelivered)), None)
        outcome = failed or ends[0] or relay.Retry("nothing was said about this record")
        notes = [note for row in (self.contact, self.activity) if row for note in row.notes]
        if notes and isinstance(outcome, relay.Delivered):
            return relay.Delivered(outcome.reference, "; ".join(notes))
        return outcome
