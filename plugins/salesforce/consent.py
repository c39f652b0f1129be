"""Consent: the last word of a number, written alone to every record that has the number.

A record has the number in its key or in one of `phone_fields`. A converted lead cannot be written
any more; its contact is written in its place. A record is made only where there is none.
"""

from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Any

import relay
from relay.crm import Consent
from relay.delivery.taxonomy import Action, Rule
from relay.outcome import NotDelivered, Outcome
from relay.sink import Log

from .errors import GONE
from .mending import Mender
from .options import PERSONS, Options
from .people import Record, e164_numbers, literal, parts, searches
from .row import Row
from .session import Session
from .target import Target
from .writer import Writer

HEADERS = {"Sforce-Duplicate-Rule-Header": "allowSave=true", "Sforce-Auto-Assign": "FALSE"}
GONE_RULE = Rule(Action.RETRY, code=GONE, advice="the record that was found has gone")
NONE_THERE = "no record has the number (consent.create: false)"


@dataclass(slots=True, eq=False)
class WordOfConsent:
    """One delivery's word. `rows` are the records that it is written to, one row each."""

    delivery: relay.Delivery
    key: str
    rows: list[tuple[str, Row]] = field(default_factory=list)
    outcome: Outcome | None = None

    @property
    def mobile(self) -> str:
        return str(self.delivery.event.data.get("mobile") or "")

    def conclude(self) -> None:
        """Its end is that of the first record that was not written; the others are."""
        if not self.rows:
            return
        failed = [row for _, row in self.rows if isinstance(row.outcome, NotDelivered)]
        if not failed:
            self.outcome = self.rows[0][1].outcome
            return
        first = copy(failed[0].outcome)  # rows of one request share theirs
        assert isinstance(first, NotDelivered)
        if len(self.rows) > 1:
            count = f"{len(failed)} of {len(self.rows)} records with the number were not written"
            first.reason = f"consent: {count}: {first.reason}"
        else:
            first.reason = f"consent: {first.reason}"
        self.outcome = first


class ConsentWriter:
    """Writes words of consent of one sink."""

    def __init__(self, session: Session, options: Options, consent: Consent, log: Log) -> None:
        self._session = session
        self._options = options
        self._consent = consent
        self._writers = {
            name: Writer(session, Target(name), None, log, HEADERS, rules=(GONE_RULE,))
            for name in {options.object, *PERSONS}
        }
        mender = Mender(options, log)
        target = Target(options.object, options.external_id)
        self._creator = Writer(session, target, mender, log, HEADERS)

    async def write(self, words: Sequence[WordOfConsent]) -> None:
        """Write each word to the records that are there; one that has none stays without rows.

        Raises Retry or Pause where the records cannot be found.
        """
        found = await self._records(words)
        for each in words:
            records = found.get(each.mobile, {}).items()
            each.rows = [(kind, self._row(each, known)) for known, kind in records]
        await self._update(words)

    async def write_to_new(self, words: Mapping[WordOfConsent, str | None]) -> None:
        """Write the words to the record with this id as well; to a new one where there is none."""
        for each, known in words.items():
            if known is not None and known not in (row.id for _, row in each.rows):
                each.rows.append((self._options.object, self._row(each, known)))
        await self._update(list(words))
        await self._create([each for each in words if not each.rows])

    async def _update(self, words: Sequence[WordOfConsent]) -> None:
        for kind, writer in self._writers.items():
            rows = [row for each in words for name, row in each.rows if name == kind]
            rows = [row for row in rows if row.outcome is None]
            if rows:
                await writer.write(rows)
        for each in words:
            each.conclude()

    def _row(self, word: WordOfConsent, known: str) -> Row:
        return Row(word.delivery, word.key, self._values(word), id=known)

    def _values(self, word: WordOfConsent) -> dict[str, Any]:
        return self._consent.values(str(word.delivery.last_word))

    async def _create(self, words: Sequence[WordOfConsent]) -> None:
        for each in words:
            if not self._consent.create:
                each.outcome = relay.Delivered(NONE_THERE)
                continue
            phone = dict.fromkeys(self._phones()[:1], each.mobile)
            fields = phone | self._values(each)
            each.rows = [(self._options.object, Row(each.delivery, each.key, fields))]
        await self._creator.write([row for each in words for _, row in each.rows])
        for each in words:
            each.conclude()

    async def _records(self, words: Sequence[WordOfConsent]) -> dict[str, dict[str, str]]:
        """The records to write for each number: their ids, with the object."""
        found: dict[str, dict[str, str]] = {}
        by_key = {each.key.casefold(): each.mobile for each in words if each.key}
        async for record in self._with_keys(by_key):
            number = by_key[str(record[self._options.external_id]).casefold()]
            self._note(found.setdefault(number, {}), self._options.object, record)
        numbers = {each.mobile for each in words if each.mobile}
        async for kind, record in self._with_numbers(numbers):
            for number in e164_numbers(record, self._phones(), self._options.country) & numbers:
                self._note(found.setdefault(number, {}), kind, record)
        return found

    def _note(self, found: dict[str, str], kind: str, record: Record) -> None:
        """A converted lead leads to its contact."""
        if kind == "Lead" and record["IsConverted"]:
            if contact := record["ConvertedContactId"]:
                found[contact] = "Contact"
        else:
            found[record["Id"]] = kind

    async def _with_keys(self, keys: Iterable[str]) -> Any:
        options = self._options
        columns = ", ".join(["Id", options.external_id, *_of_lead(options.object)])
        head = f"SELECT {columns} FROM {options.object} WHERE {options.external_id} IN "  # noqa: S608  names of the options; keys are quoted
        for part in parts([literal(key) for key in keys], 12_000 - len(head)):
            asked = f"{head}({','.join(part)})"
            for record in await self._session.records("query", "records", q=asked):
                yield Record(record)

    async def _with_numbers(self, numbers: Iterable[str]) -> Any:
        phones = self._phones()
        if not phones:
            return
        kind = self._options.object
        columns = ["Id", *phones, *_of_lead(kind)]
        for asked in searches(numbers, f"{kind}({', '.join(columns)})"):
            for record in await self._session.records("search", "searchRecords", q=asked):
                yield kind, Record(record)

    def _phones(self) -> Sequence[str]:
        """Where a record has its number: an object that is no person may lack the usual fields."""
        options = self._options
        known = options.object in PERSONS or "phone_fields" in options.model_fields_set
        return options.phone_fields if known else ()


def _of_lead(kind: str) -> Sequence[str]:
    return ("IsConverted", "ConvertedContactId") if kind == "Lead" else ()


def without_consent(fields: Mapping[str, Any], consent: Consent | None) -> dict[str, Any]:
    """The fields of a record but those of consent, which is written alone."""
    names = {name.casefold() for name in (consent.words() if consent else ())}
    return {name: value for name, value in fields.items() if name.casefold() not in names}
