"""The people who are there already: found by key, and those without one by their number."""

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any
from urllib.parse import quote

from relay.caching import short_key
from relay.callbacks.phone import e164
from relay.sink import Log
from relay.templates.helpers import national

from .mending import spelt
from .options import Options
from .row import Row
from .session import Session

KNOWN_KEYS = 50_000
LONGEST_QUERY = 12_000
"""Characters of an encoded query: URL and headers may have 16 KiB."""
LONGEST_SEARCH = 3500
"""Characters of a search; from 4,000 on SOSL leaves its ORs out."""


class Known:
    """Keys that are in the org, the last ones used."""

    def __init__(self, most: int = KNOWN_KEYS) -> None:
        self._most = most
        self._keys: OrderedDict[str, None] = OrderedDict()

    def __contains__(self, key: str) -> bool:
        return short_key(key.casefold()) in self._keys

    def add(self, key: str) -> None:
        key = short_key(key.casefold())
        self._keys[key] = None
        self._keys.move_to_end(key)
        if len(self._keys) > self._most:
            self._keys.popitem(last=False)


class Record:
    """A record as Salesforce has it. It spells the names of fields in its own way."""

    def __init__(self, fields: dict[str, Any]) -> None:
        self._fields = {name.casefold(): value for name, value in fields.items()}

    def __getitem__(self, name: str) -> Any:
        return self._fields.get(name.casefold())


class People:
    """Looks rows up before they are written, where the options need that."""

    def __init__(self, session: Session, options: Options, log: Log) -> None:
        self._session = session
        self._object = options.object
        self._external_id = options.external_id
        self._by_phone = "phone" in options.match
        self._phones = options.phone_fields if self._by_phone else []
        self._keeps_phones = self._by_phone and not options.overwrite_phones
        self._country = options.country
        self._only_if_empty = options.only_if_empty
        self._log = log
        self.known = Known()

    async def find(self, rows: Sequence[Row]) -> None:
        """Give rows the id of who is there without a key, and take out what is there already.

        Raises Retry or Pause.
        """
        asked = [row for row in rows if self._is_asked(row)]
        if asked:
            await self._find(asked)
        if self._keeps_phones:
            for row in rows:
                if row.id is not None or row.key in self.known:
                    self._keep_phones(row)

    def _keep_phones(self, row: Row) -> None:
        """Leave out the contact's number: the person has it, perhaps in another field."""
        for name in spelt(self._phones, row.fields):
            if e164(str(row.fields[name]), self._country) == row.delivery.event.data.get("mobile"):
                del row.fields[name]

    async def _find(self, asked: Sequence[Row]) -> None:
        there = await self._with_keys(asked)
        for row in asked:
            if record := there.get(row.key.casefold()):
                self.known.add(row.key)
                self._keep(row, record)
        if self._by_phone:
            await self._match([row for row in asked if row.key.casefold() not in there])

    def _is_asked(self, row: Row) -> bool:
        if spelt(self._only_if_empty, row.fields):
            return True
        return self._by_phone and row.key not in self.known

    async def _with_keys(self, rows: Sequence[Row]) -> dict[str, Record]:
        """The records that have the rows' keys, by key."""
        columns = ", ".join(dict.fromkeys(["Id", self._external_id, *self._only_if_empty]))
        head = f"SELECT {columns} FROM {self._object} WHERE {self._external_id} IN "  # noqa: S608  names of the options; keys are quoted
        there: dict[str, Record] = {}
        keys = dict.fromkeys(row.key for row in rows)
        for part in parts([literal(key) for key in keys], LONGEST_QUERY - len(quote(head))):
            asked = f"{head}({','.join(part)})"
            for record in map(Record, await self._session.records("query", "records", q=asked)):
                there[str(record[self._external_id]).casefold()] = record
        return there

    async def _match(self, rows: Sequence[Row]) -> None:
        numbers: dict[str, list[Row]] = {}
        for row in rows:
            if mobile := row.delivery.event.data.get("mobile"):
                numbers.setdefault(mobile, []).append(row)
        if not numbers:
            return
        found = await self._with_numbers(numbers)
        keys: dict[str, str] = {}
        for number, people in found.items():
            for row in numbers.get(number, ()):
                # Somebody with two numbers has the key of the one that came first.
                if all(keys.setdefault(one["Id"], row.key) == row.key for one in people):
                    self._take(row, people)

    def _take(self, row: Row, people: Sequence[Record]) -> None:
        if len(people) > 1:
            self._log.warning(
                "%s: %d people of %s have its number and no %s: none is taken for it, and a new"
                " record is made",
                row.delivery.id,
                len(people),
                self._object,
                self._external_id,
            )
            return
        row.id = people[0]["Id"]
        self._keep(row, people[0])

    async def _with_numbers(self, numbers: Iterable[str]) -> dict[str, list[Record]]:
        """The people without a key, by number. The search overlooks how a number is written."""
        columns = dict.fromkeys(["Id", self._external_id, *self._phones, *self._only_if_empty])
        found: dict[str, dict[str, Record]] = {}
        for asked in searches(numbers, f"{self._object}({', '.join(columns)})"):
            answer = await self._session.records("search", "searchRecords", q=asked)
            for record in map(Record, answer):
                if not record[self._external_id]:
                    for number in e164_numbers(record, self._phones, self._country):
                        found.setdefault(number, {})[record["Id"]] = record
        return {number: list(people.values()) for number, people in found.items()}

    def _keep(self, row: Row, record: Record) -> None:
        """Leave out what is only for empty fields, where they are not."""
        for name in spelt(self._only_if_empty, row.fields):
            if record[name] not in (None, ""):
                del row.fields[name]


def searches(numbers: Iterable[str], returning: str) -> Iterator[str]:
    """The searches (SOSL) for records with any of these numbers, however they are written."""
    terms = [" OR ".join(spellings(number)) for number in numbers]
    for part in parts(terms, LONGEST_SEARCH, joint=4):
        yield f"FIND {{{' OR '.join(part)}}} IN PHONE FIELDS RETURNING {returning}"


def e164_numbers(record: Record, phones: Iterable[str], country: str) -> set[str]:
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
    """The items in groups, each with so many characters at the most when it stands in a URL."""
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
