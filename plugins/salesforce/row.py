"""The row: one record on its way into one object."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

import relay
from relay import Outcome

from .refusal import Refusal

MOST_ROWS = 200
MOST_BYTES = 1024 * 1024
OPENING = b'{"allOrNone":false,"records":['
CLOSING = b"]}"
AROUND = len(OPENING + CLOSING)


@dataclass(slots=True, eq=False)
class Row:
    """One record, and how it ended.

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
    refusals: list[Refusal] = field(default_factory=list)
    mended: set[tuple[str, str]] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)
    outcome: Outcome | None = None

    def reference(self) -> str | None:
        """The id of the record that was written; None for a row that was not."""
        return self.outcome.reference if isinstance(self.outcome, relay.Delivered) else None

    def identity(self) -> str:
        """Rows of the same one never go together. The case of an external id tells nothing."""
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
