"""The records of one type of object, found by id or by the value of a property."""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from itertools import count

import phonenumbers


@dataclass(frozen=True)
class Record:
    """A record is replaced, never changed; times are seconds since 1970."""

    id: str
    properties: dict[str, str]
    created: float
    updated: float

    def all(self) -> dict[str, str]:
        """With what HubSpot calculates."""
        return self.properties | _calculated(self)


class Shelf:
    """Records of one type; `ordered` gives them by their ids."""

    def __init__(self, ids: Iterator[int] | None = None) -> None:
        self.records: dict[str, Record] = {}
        self._ids = ids or count(501)
        self._by: dict[str, dict[str, str]] = {}
        self._having: dict[str, defaultdict[str, set[str]]] = {}
        self._undo: list[tuple[str, Record | None]] = []
        self._order: list[int] = []

    def ordered(self, after: int = 0, most: int | None = None) -> list[Record]:
        """From this id on, so many at the most."""
        if len(self._order) != len(self.records):
            self._order = sorted(map(int, self.records))
        start = bisect_left(self._order, after)
        end = None if most is None else start + most
        return [self.records[str(each)] for each in self._order[start:end]]

    def add(self, properties: dict[str, str], now: float) -> Record:
        return self._put(Record(str(next(self._ids)), _filled(properties), now, now))

    def change(self, record: Record, properties: dict[str, str], now: float) -> Record:
        changed = _filled(record.properties | properties)
        return self._put(replace(record, properties=changed, updated=now))

    def find(self, name: str, value: str) -> Record | None:
        """The record with this value of a unique property, or with this id."""
        if name == "hs_object_id":
            return self.records.get(value)
        if name not in self._by:
            self._by[name] = {
                _key(name, record.properties[name]): record.id
                for record in self.records.values()
                if name in record.properties
            }
        return self.records.get(self._by[name].get(_key(name, value), ""))

    def having(self, asked: Iterable[tuple[str, Iterable[str]]]) -> list[Record]:
        """Those that have one of these values in this property, for any of the pairs.

        A property may be one that HubSpot calculates. Letters are compared in either case.
        """
        ids: set[str] = set()
        for name, values in asked:
            index = self._index(name)
            ids = ids.union(*(index.get(folded(value), ()) for value in values))
        return [self.records[id_] for id_ in sorted(ids, key=int)]

    def _index(self, name: str) -> Mapping[str, set[str]]:
        """The ids of records by their values of a property, kept from the first question on."""
        if name not in self._having:
            self._having[name] = defaultdict(set)
            for record in self.records.values():
                _enter(self._having[name], name, record.all(), record.id)
        return self._having[name]

    def remove(self, id_: str) -> None:
        self._forget(id_)
        self._order.clear()

    @contextmanager
    def undoing(self) -> Iterator[Callable[[], None]]:
        """Gives a function that takes back what was written since."""
        self._undo.clear()
        yield self._take_back
        self._undo.clear()

    def _take_back(self) -> None:
        for id_, before in reversed(self._undo):
            self._forget(id_)
            if before:
                self._place(before)
        self._undo.clear()
        self._order.clear()

    def _put(self, record: Record) -> Record:
        self._undo.append((record.id, self.records.get(record.id)))
        self._forget(record.id)
        return self._place(record)

    def _place(self, record: Record) -> Record:
        self.records[record.id] = record
        for name, index in self._by.items():
            if name in record.properties:
                index[_key(name, record.properties[name])] = record.id
        have = record.all() if self._having else {}
        for name, ids in self._having.items():
            _enter(ids, name, have, record.id)
        return record

    def _forget(self, id_: str) -> None:
        record = self.records.pop(id_, None)
        for name, index in self._by.items():
            key = _key(name, record.properties.get(name, "")) if record else ""
            if index.get(key) == id_:
                del index[key]
        have = record.all() if record and self._having else {}
        for name, ids in self._having.items():
            ids[folded(have.get(name, ""))].discard(id_)


def folded(value: str) -> str:
    """As the search compares it."""
    return value.lower()


def _enter(ids: defaultdict[str, set[str]], name: str, have: Mapping[str, str], id_: str) -> None:
    if name in have:
        ids[folded(have[name])].add(id_)


def _key(name: str, value: str) -> str:
    """Addresses are compared as HubSpot keeps them."""
    return value.strip().lower() if name == "email" else value


def _filled(properties: dict[str, str]) -> dict[str, str]:
    """An empty value is none."""
    return {name: value for name, value in properties.items() if value}


def iso(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"


def _calculated(record: Record) -> dict[str, str]:
    found = {"hs_object_id": record.id}
    found |= {name: iso(record.created) for name in ("createdate", "hs_createdate")}
    found |= {name: iso(record.updated) for name in ("lastmodifieddate", "hs_lastmodifieddate")}
    return found | _phones(record.properties)


def _phones(properties: dict[str, str]) -> dict[str, str]:
    """Area code and local number, without the country's."""
    found = {}
    for name, short in (("phone", "phone"), ("mobilephone", "mobile")):
        country, national = _parts(properties[name]) if name in properties else ("", "")
        if national:
            found[f"hs_searchable_calculated_{short}_number"] = national
            found[f"hs_searchable_calculated_international_{short}_number"] = country + national
    return found


@lru_cache(maxsize=100_000)
def _parts(text: str) -> tuple[str, str]:
    """Of a number; one without a country's code is American, and what is none has none."""
    try:
        number = phonenumbers.parse(text, "US")
    except phonenumbers.NumberParseException:
        return "", ""
    return str(number.country_code), phonenumbers.national_significant_number(number)
