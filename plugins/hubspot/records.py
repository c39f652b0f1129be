"""Records to write, and their values as HubSpot takes them: all of them text."""

from collections.abc import Iterable, Mapping
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import orjson

import relay
from relay import NotDelivered, Outcome

from .errors import ApiError

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Record:
    """One record to write.

    `trace` is the event's id; `key` the value of the id property; `mobile` a person's number.

    `target` is the id of the record in HubSpot where it is to be written by that: a person found
    by other means, who has no key yet. Where it `is_bound` to that, no other is written or made.
    One that `is_known` is in HubSpot under its key. `mended` says what was tried to make it
    acceptable, `taken` that another record may have a value that ours was to have; `links` are
    the associations that it is made with. `spared` are the properties that a person who is there
    keeps as they are; they are for a record that `is_new`. `notes` say what was left out or cut.
    `outcome` is its end.
    """

    trace: str
    key: str
    properties: dict[str, str]
    mobile: str = ""
    links: list[dict[str, Any]] = field(default_factory=list)
    target: str | None = None
    is_bound: bool = False
    is_known: bool = False
    is_new: bool = False
    spared: dict[str, str] = field(default_factory=dict)
    taken: ApiError | None = None
    repairs: set[tuple[str, str]] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)
    outcome: Outcome | None = None

    @property
    def note(self) -> str | None:
        return "; ".join(self.notes) or None

    def restore(self) -> None:
        """The person is not there any more: write what was spared, too."""
        self.properties |= self.spared
        self.spared = {}

    def __repr__(self) -> str:
        return f"Record(trace={self.trace!r})"


def properties(values: Mapping[str, Any]) -> dict[str, str]:
    """What `map` gave, as HubSpot's properties."""
    return {name: text(value) for name, value in values.items()}


def value(result: Mapping[str, Any], name: str) -> str:
    """A property of a record as HubSpot gives it; empty where it has none."""
    properties = result.get("properties")
    found = properties.get(name) if isinstance(properties, dict) else None
    return "" if found is None else str(found)


def by_keys(pairs: Iterable[tuple[str, T]]) -> dict[str, T]:
    """Each by its key, and by its key in lower case unless that is another's."""
    exact = dict(pairs)
    return {key.casefold(): each for key, each in exact.items()} | exact


def of_key(found: Mapping[str, T], key: str) -> T | None:
    """What has the key; else what has one that differs from it only by case. For `by_keys`."""
    return found.get(key) or found.get(key.casefold())


def keep_filled(record: Record, result: Mapping[str, Any], names: Iterable[str]) -> None:
    """Leave out those of these properties that have a value in HubSpot."""
    for name in names:
        if value(result, name):
            record.properties.pop(name, None)


def text(value: Any) -> str:
    """Null clears the property; several values are joined as HubSpot's enumerations have them."""
    match value:
        case None:
            return ""
        case str():
            return value
        case bool():
            return "true" if value else "false"
        case list() | tuple():
            return ";".join(text(each) for each in value)
        case dict():
            return orjson.dumps(value).decode()
        case _:
            return str(value)


@dataclass(slots=True, eq=False)
class BatchItem:
    """One delivery of a batch, with the record to write, or with its outcome."""

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
