"""The lookup: reads records by key, by number, and the contacts that leads have become."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from relay import e164, national

from .fields import Fields
from .options import Options
from .session import Session

LONGEST_QUERY = 12_000
"""Characters of an encoded query: URL and headers may have 16 KiB."""
LONGEST_SEARCH = 3500
"""Characters of a search; from 4,000 on SOSL leaves its ORs out."""
LONGEST_KEY = 255
"""Characters of a text field, which an external id may be ("Field Types", object reference)."""
CONTACT, LEAD = "Contact", "Lead"
CONVERTED = ("IsConverted", "ConvertedContactId")


class Record:
    """A record as Salesforce has it. It spells the names of fields in its own way."""

    def __init__(self, fields: dict[str, Any]) -> None:
        self._fields = {name.casefold(): value for name, value in fields.items()}

    def __getitem__(self, name: str) -> Any:
        return self._fields.get(name.casefold())


@dataclass(frozen=True, slots=True)
class Found:
    """A record that was found, and its object.

    `by` is the record that had the key or the number: the lead where `record` is the contact that
    it has become. `record` has no id where that contact is gone.
    """

    kind: str
    record: Record
    by: Record


class Lookup:
    """Reads records of the sink's objects. With `follows`, a converted lead leads to its contact.

    All that reads raises Retry or Pause.
    """

    def __init__(
        self, session: Session, options: Options, fields: Fields, *, follows: bool
    ) -> None:
        self._session = session
        self._external_id = options.external_id
        self._phones = options.phone_fields
        self._kinds = options.kinds
        self._follows = follows
        self._fields = fields

    async def with_keys(
        self, kind: str, keys: Iterable[str], columns: Sequence[str] = ()
    ) -> list[Found]:
        """The records of an object that have these keys, with these fields.

        No record has a key that no field takes: one would make the query longer than a URL may be.
        """
        possible = [key for key in keys if len(key) <= LONGEST_KEY]
        found = await self._query(kind, self._external_id, possible, columns)
        return await self._followed([(kind, record) for record in found], columns)

    async def with_numbers(
        self, numbers: Iterable[str], columns: Sequence[str] = ()
    ) -> list[Found]:
        """Records of all the objects that may have these numbers, however they are written.

        The search ignores how a number is written, and finds numbers that end alike: see `numbers`.
        """
        returning = ", ".join(
            f"{kind}({', '.join(self._columns(kind, [*self._phones, *columns]))})"
            for kind in self._kinds
        )
        found: list[tuple[str, Record]] = []
        for asked in searches(numbers, returning):
            answer = await self._session.rows("search", "searchRecords", q=asked)
            found += [(kind, Record(each)) for each in answer if (kind := self._kind(each))]
        return await self._followed(found, columns)

    def numbers(self, record: Record, country: str) -> set[str]:
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
        self, found: Sequence[tuple[str, Record]], columns: Sequence[str]
    ) -> list[Found]:
        if not self._follows:
            return [Found(kind, record, record) for kind, record in found]
        became = [_contact(record) for kind, record in found if _is_converted(kind, record)]
        contacts = await self._contacts(filter(None, became), columns)
        return [
            Found(CONTACT, contacts.get(_contact(record), Record({})), record)
            if _is_converted(kind, record)
            else Found(kind, record, record)
            for kind, record in found
        ]

    async def _contacts(self, ids: Iterable[str], columns: Sequence[str]) -> dict[str, Record]:
        """The contacts that are there. A sink of leads alone may not be able to read them."""
        if CONTACT not in self._kinds:
            return {known: Record({"Id": known}) for known in ids}
        found = await self._query(CONTACT, "Id", ids, columns)
        return {str(record["Id"]): record for record in found}

    async def _query(
        self, kind: str, name: str, values: Iterable[str], columns: Sequence[str]
    ) -> list[Record]:
        head = f"SELECT {', '.join(self._columns(kind, columns))} FROM {kind} WHERE {name} IN "  # noqa: S608  names of the options; values are quoted
        found: list[Record] = []
        longest = LONGEST_QUERY - len(quote(head))
        for part in parts([literal(value) for value in dict.fromkeys(values)], longest):
            asked = f"{head}({','.join(part)})"
            found += map(Record, await self._session.rows("query", "records", q=asked))
        return found

    def _columns(self, kind: str, columns: Iterable[str]) -> list[str]:
        """What to read of an object, each field once whatever its capitals."""
        converted = CONVERTED if self._follows and kind == LEAD else ()
        names = ["Id", self._external_id, *self._fields.of(kind, columns), *converted]
        return list({name.casefold(): name for name in names}.values())


def _is_converted(kind: str, record: Record) -> bool:
    return kind == LEAD and bool(record["IsConverted"])


def _contact(lead: Record) -> str:
    """The id of the contact that a lead has become; empty where it names none."""
    return str(lead[CONVERTED[1]] or "")


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
