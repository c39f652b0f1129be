"""Consent: the last word of a number, written alone to every record that has the number.

A record has the number in its key or in one of `phone_fields`. A converted lead cannot be written
any more; its contact is written in its place. A record is made only where there is none.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import relay
from relay import Log, crm
from relay.crm import Action, Consent, Rule

from .client import Client
from .contacts import Fields, Lookup
from .errors import INVALID, MOVED, TOO_LONG
from .options import PERSONS, Options
from .records import Row, Target
from .upsert import Repair, Writer

HEADERS = {"Sforce-Duplicate-Rule-Header": "allowSave=true", "Sforce-Auto-Assign": "FALSE"}
VALUE_RULE = Rule(
    Action.PAUSE,
    code=INVALID | {TOO_LONG},
    advice="correct options.consent, or the field in Salesforce",
)
"""Options alone can be the cause."""
NONE_THERE = "no record has the number (consent.create: false)"
NO_KEY = "consent: no record has the number, and key is empty, so none can be made"


@dataclass(slots=True, eq=False)
class ConsentWrite(crm.ConsentWrite[Row]):
    """The word of one delivery. `kind` is the object in which a record is made if none is there."""

    kind: str = ""

    def person(self) -> str | None:
        """The id of the first record that has the word."""
        return next(filter(None, (row.reference() for row in self.records)), None)


class ConsentWriter:
    """Writes words of consent of one sink."""

    def __init__(
        self, client: Client, options: Options, consent: Consent, fields: Fields, log: Log
    ) -> None:
        self._lookup = Lookup(client, options, fields, follows=True)
        self._fields = fields
        self._options = options
        self._consent = consent
        self._writers = {
            name: Writer(client, Target(name), None, log, HEADERS, rules=(*MOVED, VALUE_RULE))
            for name in {*options.kinds, *PERSONS}
        }
        repair = Repair(options, log, kept=consent.words())
        self._creators = {
            name: Writer(
                client,
                Target(name, options.external_id),
                repair,
                log,
                HEADERS,
                rules=(VALUE_RULE,),
            )
            for name in options.kinds
        }

    async def write(self, words: Sequence[ConsentWrite]) -> None:
        """Write each word to the records that are there; one that has none stays without rows.

        Raises Retry or Pause where the records cannot be found.
        """
        words = [each for each in words if each.has_number()]
        if not words:
            return
        found = await self._records(words)
        for each in words:
            records = found.get(each.mobile, {}).items()
            each.records = [self._row(each, kind, known) for known, kind in records if known]
            each.kind = found.get(each.mobile, {}).get("", each.kind)
        await self._update(words)

    async def write_to_new(self, words: Mapping[ConsentWrite, Row | None]) -> None:
        """Write the words to the record of this row as well; to a new one where there is none."""
        for each, new in words.items():
            known = new and new.reference()
            if new and known and known not in (row.id for row in each.records):
                each.records.append(self._row(each, new.kind, known))
        await self._update(list(words))
        await self._create([each for each in words if not each.records])

    async def _update(self, words: Sequence[ConsentWrite]) -> None:
        rows = [row for each in words for row in each.records if row.outcome is None]
        await _write(self._writers, rows)
        for each in words:
            each.conclude()

    def _row(self, word: ConsentWrite, kind: str, known: str) -> Row:
        return Row(word.delivery, word.key, self._values(word), id=known, kind=kind)

    def _values(self, word: ConsentWrite) -> dict[str, Any]:
        return self._consent.values(str(word.delivery.last_word))

    async def _create(self, words: Sequence[ConsentWrite]) -> None:
        for each in words:
            if not self._consent.create:
                each.outcome = relay.Delivered(NONE_THERE)
                continue
            if not each.key:
                each.outcome = relay.Reject(NO_KEY)
                continue
            phone = dict.fromkeys(
                self._fields.of(each.kind, self._options.consent_phones())[:1], each.mobile
            )
            fields = phone | self._values(each)
            each.records = [Row(each.delivery, each.key, fields, kind=each.kind)]
        await _write(self._creators, [row for each in words for row in each.records])
        for each in words:
            each.conclude()

    async def _records(self, words: Sequence[ConsentWrite]) -> dict[str, dict[str, str]]:
        """The records to write for each number: their ids, with the object.

        An empty id means a contact that a converted lead with the key has become, and that
        is gone: a new one has to be made there, as the lead has the key for ever.
        """
        await self._fields.learn()
        found: dict[str, dict[str, str]] = {}
        by_key: dict[str, set[str]] = {}
        for word in words:
            if word.key:
                by_key.setdefault(word.key.casefold(), set()).add(word.mobile)
        for kind in self._options.kinds if by_key else ():
            for each in await self._lookup.with_keys(kind, by_key):
                key = str(each.by[self._options.external_id]).casefold()
                for number in by_key.get(key, ()):
                    found.setdefault(number, {})[each.record["Id"] or ""] = each.kind
        numbers = {each.mobile for each in words if each.mobile}
        for each in (
            await self._lookup.with_numbers(numbers) if self._options.consent_phones() else ()
        ):
            for number in self._lookup.numbers(each.by, self._options.country) & numbers:
                if known := each.record["Id"]:
                    found.setdefault(number, {})[known] = each.kind
        return found


async def _write(writers: Mapping[str, Writer], rows: Sequence[Row]) -> None:
    for kind, writer in writers.items():
        await writer.write([row for row in rows if row.kind == kind])
