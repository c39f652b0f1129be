"""Finds people who are there already: by key, and those without one by their number.

The key is what the template of the options makes of an event, or of a number alone. A sink with
several objects leaves out of each record the fields that only another of its objects has; the
only object of a sink is asked for every field that the options name.
"""

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import relay
from relay import EvaluationError, Log, Template, e164, national
from relay.crm import LruKeys, number_of

from .client import Client
from .options import Options
from .records import Row
from .upsert import spelt

EVENT_ID = "00000000-0000-7000-8000-000000000000"


def is_of_contact(key: Template, event: relay.Event) -> bool:
    """Whether all events of the contact have the event's key; if not, each has its own record.

    Of the data, they have in common the contact itself, under whatever name, and its country.
    """
    data = {name: value for name, value in event.data.items() if value == event.contact}
    data["country"] = event.data.get("country")
    try:
        return key.render(_bare("", event.source, data)).strip() == key.render(event).strip()
    except EvaluationError:
        return False


def example(key: Template) -> str:
    """A key of the greatest length; empty if only a real event can give one."""
    data = {"mobile": "+491521234567890", "country": "DE"}
    try:
        return key.render(_bare(EVENT_ID, "/callbacks/sumotext", data)).strip()
    except EvaluationError:
        return ""


def _bare(event_id: str, source: str, data: Mapping[str, str | None]) -> relay.Event:
    return relay.Event(id=event_id, source=source, type="", subject=None, time="", data=data)


class Fields:
    """The fields of the sink's objects ("sObject Describe", REST guide)."""

    def __init__(self, client: Client, kinds: Iterable[str]) -> None:
        self._client = client
        self._kinds = tuple(kinds)
        self._others: dict[str, frozenset[str]] = {}
        self._are_current = len(self._kinds) == 1
        self._turn = asyncio.Lock()

    async def learn(self) -> None:
        """Read the description of each of several objects, once. Raises Retry or Pause."""
        async with self._turn:  # batches that begin together read them once
            if not self._are_current:
                names = {kind: await self._read(kind) for kind in self._kinds}
                every = frozenset[str]().union(*names.values())
                self._others = {kind: every - own for kind, own in names.items()}
                self._are_current = True

    async def _read(self, kind: str) -> frozenset[str]:
        return frozenset(_names(await self._client.records(f"sobjects/{kind}/describe", "fields")))

    def renew(self) -> None:
        """Have the next `learn` read the descriptions again. Until then what was read counts."""
        self._are_current = len(self._kinds) == 1

    def of(self, kind: str, names: Iterable[str]) -> list[str]:
        """The names without those that only another object has."""
        others = self._others.get(kind, frozenset[str]())
        return [name for name in names if name.casefold() not in others]

    def kept(self, kind: str, record: Mapping[str, Any]) -> dict[str, Any]:
        """The record without the fields that only another object has."""
        return {name: record[name] for name in self.of(kind, record)}


def _names(fields: Iterable[Mapping[str, Any]]) -> Iterable[str]:
    """How a record can name each field: by itself, or by its relationship."""
    for field in fields:
        for name in (field.get("name"), field.get("relationshipName")):
            if isinstance(name, str):
                yield name.casefold()


LONGEST_QUERY = 12_000
"""Characters of an encoded query: URL and headers may have 16 KiB."""
LONGEST_SEARCH = 3500
"""Characters of a search; from 4,000 on SOSL leaves its ORs out."""
LONGEST_KEY = 255
"""Characters of a text field, which an external id may be ("Field Types", object reference)."""
CONTACT, LEAD = "Contact", "Lead"
CONVERTED = ("IsConverted", "ConvertedContactId")


class StoredRecord:
    """A record as Salesforce returns it. The case of a field's name does not count."""

    def __init__(self, fields: dict[str, Any]) -> None:
        self._fields = {name.casefold(): value for name, value in fields.items()}

    def __getitem__(self, name: str) -> Any:
        return self._fields.get(name.casefold())


@dataclass(frozen=True, slots=True)
class FoundRecord:
    """A record that was found, and its object.

    `by` is the record that had the key or the number: the lead where `record` is the contact that
    it has become. `record` has no id where that contact is gone.
    """

    kind: str
    record: StoredRecord
    by: StoredRecord


class Lookup:
    """Reads records of the sink's objects. With `follows`, a converted lead leads to its contact.

    All that reads raises Retry or Pause.
    """

    def __init__(self, client: Client, options: Options, fields: Fields, *, follows: bool) -> None:
        self._client = client
        self._external_id = options.external_id
        self._phones = options.phone_fields
        self._kinds = options.kinds
        self._follows = follows
        self._fields = fields

    async def with_keys(
        self, kind: str, keys: Iterable[str], columns: Sequence[str] = ()
    ) -> list[FoundRecord]:
        """The records of an object that have these keys, with these fields.

        No record has a key that no field takes: one would make the query longer than a URL may be.
        """
        possible = [key for key in keys if len(key) <= LONGEST_KEY]
        found = await self._query(kind, self._external_id, possible, columns)
        return await self._followed([(kind, record) for record in found], columns)

    async def with_numbers(
        self, numbers: Iterable[str], columns: Sequence[str] = ()
    ) -> list[FoundRecord]:
        """Records of all the objects that may have these numbers, however they are written.

        The search ignores how a number is written, and finds numbers that end alike: see `numbers`.
        """
        returning = ", ".join(
            f"{kind}({', '.join(self._columns(kind, [*self._phones, *columns]))})"
            for kind in self._kinds
        )
        found: list[tuple[str, StoredRecord]] = []
        for asked in searches(numbers, returning):
            answer = await self._client.rows("search", "searchRecords", q=asked)
            found += [(kind, StoredRecord(each)) for each in answer if (kind := self._kind(each))]
        return await self._followed(found, columns)

    def numbers(self, record: StoredRecord, country: str) -> set[str]:
        """The numbers that a record has, in E.164."""
        return e164_numbers(record, self._phones, country)

    def _kind(self, record: dict[str, Any]) -> str:
        """The object of a record that a search has found; empty for none of the sink's."""
        if len(self._kinds) == 1:
            return self._kinds[0]
        told = record.get("attributes")
        kind = told.get("type") if isinstance(told, dict) else None
        return kind if kind in self._kinds else ""

    async def _followed(
        self, found: Sequence[tuple[str, StoredRecord]], columns: Sequence[str]
    ) -> list[FoundRecord]:
        if not self._follows:
            return [FoundRecord(kind, record, record) for kind, record in found]
        became = [_contact(record) for kind, record in found if _is_converted(kind, record)]
        contacts = await self._contacts(filter(None, became), columns)
        return [
            FoundRecord(CONTACT, contacts.get(_contact(record), StoredRecord({})), record)
            if _is_converted(kind, record)
            else FoundRecord(kind, record, record)
            for kind, record in found
        ]

    async def _contacts(
        self, ids: Iterable[str], columns: Sequence[str]
    ) -> dict[str, StoredRecord]:
        """The contacts that are there. A sink of leads alone may not be able to read them."""
        if CONTACT not in self._kinds:
            return {known: StoredRecord({"Id": known}) for known in ids}
        found = await self._query(CONTACT, "Id", ids, columns)
        return {str(record["Id"]): record for record in found}

    async def _query(
        self, kind: str, name: str, values: Iterable[str], columns: Sequence[str]
    ) -> list[StoredRecord]:
        head = f"SELECT {', '.join(self._columns(kind, columns))} FROM {kind} WHERE {name} IN "  # noqa: S608  names of the options; values are quoted
        found: list[StoredRecord] = []
        longest = LONGEST_QUERY - len(quote(head))
        for part in parts([literal(value) for value in dict.fromkeys(values)], longest):
            asked = f"{head}({','.join(part)})"
            found += map(StoredRecord, await self._client.rows("query", "records", q=asked))
        return found

    def _columns(self, kind: str, columns: Iterable[str]) -> list[str]:
        """What to read of an object, each field once whatever its capitals."""
        converted = CONVERTED if self._follows and kind == LEAD else ()
        names = ["Id", self._external_id, *self._fields.of(kind, columns), *converted]
        return list({name.casefold(): name for name in names}.values())


def _is_converted(kind: str, record: StoredRecord) -> bool:
    return kind == LEAD and bool(record["IsConverted"])


def _contact(lead: StoredRecord) -> str:
    """The id of the contact that a lead has become; empty where it names none."""
    return str(lead[CONVERTED[1]] or "")


def searches(numbers: Iterable[str], returning: str) -> Iterator[str]:
    """The searches (SOSL) for records with any of these numbers, however they are written."""
    terms = [" OR ".join(spellings(number)) for number in numbers]
    for part in parts(terms, LONGEST_SEARCH, joint=4):
        yield f"FIND {{{' OR '.join(part)}}} IN PHONE FIELDS RETURNING {returning}"


def e164_numbers(record: StoredRecord, phones: Iterable[str], country: str) -> set[str]:
    """The numbers that a record has in these fields."""
    written = [str(record[name]) for name in phones if record[name]]
    return {number for each in written if (number := e164(each, country))}


def literal(text: str) -> str:
    """The text in a SOQL query ("Quoted String Escape Sequences")."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return "'" + escaped.replace("\n", "\\n").replace("\r", "\\r") + "'"


def spellings(number: str) -> list[str]:
    """An E.164 number as a search finds it: with and without its country."""
    whole = number.removeprefix("+")
    return list(dict.fromkeys(filter(None, (national(number), whole))))


def parts(items: Iterable[str], longest: int, joint: int = 3) -> Iterator[list[str]]:
    """The items in groups, each with at most so many characters in a URL."""
    group: list[str] = []
    size = 0
    for item in items:
        length = len(quote(item)) + joint
        if group and size + length > longest:
            yield group
            group, size = [], 0
        group.append(item)
        size += length
    if group:
        yield group


Place = tuple[str, str | None]
"""An object, and the id of a record of it; without an id, the record that has the key."""
NOWHERE: Place = ("", None)


class ContactFinder:
    """Looks rows up before they are written, where the options need that.

    In a sink with one object, the key finds the record when it is written. In one with several,
    each row gets the object and the id of its person here: the first object that has the key, else
    the first that has the number.
    """

    def __init__(self, client: Client, options: Options, fields: Fields, log: Log) -> None:
        self._kinds = options.kinds
        self._are_several = len(options.kinds) > 1
        self._lookup = Lookup(client, options, fields, follows=self._are_several)
        self._fields = fields
        self._external_id = options.external_id
        self._by_phone = "phone" in options.match
        self._phones = options.phone_fields if self._by_phone else []
        self._keeps_phones = self._by_phone and not options.overwrite_phones
        self._country = options.country
        self._only_if_empty = options.only_if_empty
        self._log = log
        self.known: LruKeys[Place] = LruKeys(fold=str.casefold)

    async def find(self, rows: Sequence[Row]) -> None:
        """Give rows the place of who is there already, and take out what is there already.

        Raises Retry or Pause.
        """
        await self._fields.learn()
        asked = [row for row in rows if self._is_asked(row)]
        if asked:
            await self._find(asked)
        for row in rows:
            if self._are_several:
                self._take_known(row)
                row.fields = self._fields.kept(row.kind, row.fields)
            if self._keeps_phones and (row.id is not None or row.key in self.known):
                self._keep_phones(row)

    def note(self, row: Row) -> None:
        """Keep in mind where the person of a row that has been written is; else forget it."""
        if not isinstance(row.outcome, relay.Delivered):
            self.known.discard(row.key)
        elif self._are_several:
            self.known.add(row.key, (row.kind, row.outcome.reference))
        else:
            self.known.add(row.key, NOWHERE)

    def _take_known(self, row: Row) -> None:
        kind, known = self.known.get(row.key) or NOWHERE
        if row.id is None and known is not None:
            row.kind, row.id, row.has_key = kind, known, True

    def _keep_phones(self, row: Row) -> None:
        """Leave out the contact's number: the person has it, perhaps in another field."""
        for name in spelt(self._phones, row.fields):
            if e164(str(row.fields[name]), self._country) == number_of(row.delivery.event):
                del row.fields[name]

    def _is_asked(self, row: Row) -> bool:
        if spelt(self._only_if_empty, row.fields):
            return True
        return (self._by_phone or self._are_several) and row.key not in self.known

    async def _find(self, asked: Sequence[Row]) -> None:
        for kind in self._kinds:
            there = await self._with_keys(kind, asked)
            for row in asked:
                if found := there.get(row.key.casefold()):
                    self._take_by_key(row, found)
            asked = [row for row in asked if row.key.casefold() not in there]
        if self._by_phone and asked:
            await self._match(asked)

    async def _with_keys(self, kind: str, rows: Sequence[Row]) -> Mapping[str, FoundRecord]:
        """The records that have the rows' keys, by key."""
        if not rows:
            return {}
        keys = [row.key for row in rows]
        found = await self._lookup.with_keys(kind, keys, self._only_if_empty)
        return {str(each.by[self._external_id]).casefold(): each for each in found}

    def _take_by_key(self, row: Row, found: FoundRecord) -> None:
        if self._are_several:
            self._place(row, found)
        else:
            self.known.add(row.key, NOWHERE)
        self._keep(row, found)

    def _place(self, row: Row, found: FoundRecord) -> None:
        row.kind, row.id = found.kind, found.record["Id"]
        row.has_key = bool(found.record[self._external_id])

    async def _match(self, rows: Sequence[Row]) -> None:
        numbers: dict[str, list[Row]] = {}
        for row in rows:
            if number := number_of(row.delivery.event):
                numbers.setdefault(number, []).append(row)
        if not numbers:
            return
        found = await self._with_numbers(numbers)
        keys: dict[str, str] = {}
        for number, people in found.items():
            for row in numbers.get(number, ()):
                # A person with two numbers has the key of the one that came first.
                if all(keys.setdefault(known, row.key) == row.key for known in people):
                    self._take(row, list(people.values()))

    def _take(self, row: Row, people: Sequence[FoundRecord]) -> None:
        people = self._of_first_object(people)
        if len(people) > 1:
            self._log.warning(
                "%s: %d people of %s have its number and no %s: none is taken for it, and a new"
                " record is made",
                row.delivery.id,
                len(people),
                people[0].kind,
                self._external_id,
            )
            return
        self._place(row, people[0])
        self._keep(row, people[0])

    def _of_first_object(self, people: Sequence[FoundRecord]) -> Sequence[FoundRecord]:
        first = min(people, key=lambda each: self._kinds.index(each.kind)).kind
        return [each for each in people if each.kind == first]

    async def _with_numbers(self, numbers: Iterable[str]) -> dict[str, dict[str, FoundRecord]]:
        """The people without a key, by number and id."""
        found: dict[str, dict[str, FoundRecord]] = {}
        for each in await self._lookup.with_numbers(numbers, self._only_if_empty):
            known = each.record["Id"]
            if known and not each.record[self._external_id] and not each.by[self._external_id]:
                for number in self._lookup.numbers(each.by, self._country):
                    found.setdefault(number, {})[known] = each
        return found

    def _keep(self, row: Row, found: FoundRecord) -> None:
        """Leave out what is only for empty fields, where they are not."""
        for name in spelt(self._only_if_empty, row.fields):
            if found.record[name] not in (None, ""):
                del row.fields[name]
