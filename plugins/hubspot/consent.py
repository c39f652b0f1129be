"""Consent: the last word of a number, written alone to every contact that has the number.

A contact has the number in its key, or in a phone property that HubSpot's search finds. One is
made only where there is none.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import relay
from relay import OPT_IN, Log, Outcome, crm
from relay.crm import Consent, distinct_groups

from .client import Client
from .contacts import PhoneSearch
from .errors import GONE, INVALID, READ_ONLY, UNKNOWN, ApiError, blocked
from .options import Options
from .records import Record, by_keys, of_key, properties, value
from .upsert import Repair, Writer

MOBILE = "mobilephone"
NONE_THERE = "no contact has the number (consent.create: false)"
NO_KEY = "consent: no contact has the number, and key is empty, so none can be made"
CONSENT_ADVICE = "correct options.consent, or the property in HubSpot (relay setup makes one)"


@dataclass(slots=True, eq=False)
class ConsentWrite(crm.ConsentWrite[Record]):
    """The word of one delivery, and the contacts that it is written to."""

    noun: ClassVar[str] = "contacts"

    @property
    def is_opt_in(self) -> bool:
        return self.delivery.last_word == OPT_IN


class ConsentRepair(Repair):
    """Repairs what else a contact needs, but never the word: it is written as it is, or not."""

    def apply(self, record: Record, error: ApiError) -> Outcome | None:
        if error.code in GONE:
            return relay.Retry(f"{error.reason()}: the contact that was found has gone")
        blamed = {
            name
            for field_error in error.field_errors
            if field_error.code in INVALID | UNKNOWN | READ_ONLY
            for name in field_error.properties
        }
        if not blamed.isdisjoint(record.properties.keys() - {MOBILE}):
            advised = replace(error, rule=replace(error.rule, advice=CONSENT_ADVICE))
            return relay.Pause(advised.reason(), status=error.status)
        return super().apply(record, error)


class ConsentWriter:
    """Writes words of consent of one sink."""

    def __init__(
        self,
        client: Client,
        search: PhoneSearch,
        options: Options,
        columns: Sequence[str] | None,
        log: Log,
    ) -> None:
        assert options.consent
        self._consent: Consent = options.consent
        self._search = search
        self._id_property = options.id_property
        self._finds_numbers = options.finds_numbers
        self._has_mobile = options.is_of_contacts or MOBILE in (columns or ())
        fixed = frozenset(self._consent.words())
        repair = ConsentRepair(None, log, defaults=options.defaults, fixed=fixed)
        self._updater = Writer(client, options.object, repair)
        repair = ConsentRepair(options.id_property, log, defaults=options.defaults, fixed=fixed)
        self._creator = Writer(client, options.object, repair)

    async def write(self, words: Sequence[ConsentWrite]) -> None:
        """Write each word to the contacts that are there; one that has none has no outcome."""
        words = [each for each in words if each.has_number()]
        if not words:
            return
        try:
            found = await self._contacts(words)
        except (relay.Retry, relay.Pause) as failed:
            for each in words:
                each.outcome = failed
            return
        for each, ids in found.items():
            each.records = [self._update(each, known) for known in ids]
        await self._write(self._updater, words)

    async def write_to_made(self, words: Mapping[ConsentWrite, Record | None]) -> None:
        """Write the words to the contacts that were made or found by their events' own records.

        A contact is made for each word that has none by then. An opt-in waits for a record that is
        tried again, as that may still find the person by other means.
        """
        sought = {each: end for each, end in words.items() if each.records or not each.outcome}
        made, missing = [], []
        for each, record in sought.items():
            end = record and record.outcome
            known = end.reference if isinstance(end, relay.Delivered) else None
            if known and known not in {record.target for record in each.records}:
                each.records.append(self._update(each, known))
                made.append(each)
            elif isinstance(end, relay.Retry) and each.is_opt_in and not each.records:
                each.outcome = end
            elif not each.records:
                self._make(each)
                missing.append(each)
        await self._write(self._updater, made)
        await self._write(self._creator, missing)
        for each in missing:
            record = words[each]
            waits = record and isinstance(record.outcome, relay.Retry | relay.Pause)
            if record and waits and isinstance(each.outcome, relay.Reject):
                each.outcome = record.outcome  # it may have what a record for the word lacks

    async def _write(self, writer: Writer, words: Iterable[ConsentWrite]) -> None:
        words = [each for each in words if each.records]
        for together in distinct_groups(
            (record for each in words for record in each.records), lambda record: record.key
        ):
            await writer.write(together)
        for each in words:
            each.conclude()

    def _update(self, word: ConsentWrite, known: str) -> Record:
        """The update of the contact with this id, which identifies its result too."""
        return Record(f"consent-{known}", known, self._values(word), target=known, is_bound=True)

    def _make(self, word: ConsentWrite) -> None:
        if not self._consent.create:
            word.outcome = relay.Delivered(NONE_THERE)
        elif not word.key:
            word.outcome = relay.Reject(NO_KEY)
        else:
            mobile = {MOBILE: word.mobile} if self._has_mobile else {}
            word.records = [Record(word.delivery.id, word.key, mobile | self._values(word))]

    def _values(self, word: ConsentWrite) -> dict[str, str]:
        return properties(self._consent.values(str(word.delivery.last_word)))

    async def _contacts(self, words: Sequence[ConsentWrite]) -> dict[ConsentWrite, list[str]]:
        """The ids of all contacts with the number, for each word."""
        found: dict[ConsentWrite, dict[str, None]] = {each: {} for each in words}
        ids = await self._with_keys({each.key for each in words if each.key})
        for each in words:
            if known := of_key(ids, each.key):
                found[each][known] = None
        numbers = {each.mobile for each in words if each.mobile}
        people = await self._search.find(numbers) if numbers and self._finds_numbers else {}
        for each in words:
            found[each] |= dict.fromkeys(people.get(each.mobile, ()))
        return {each: list(known) for each, known in found.items()}

    async def _with_keys(self, keys: Iterable[str]) -> dict[str, str]:
        """The ids of contacts by their keys, as in by_keys."""
        asked = sorted(keys)
        found, error = await self._creator.read(asked, [self._id_property], self._id_property)
        if error:
            raise blocked(error)
        return by_keys((value(each, self._id_property), str(each["id"])) for each in found)
