"""Consent: the last word of a number, written alone to every contact that has the number.

A contact has the number in its key, or in a phone property that HubSpot's search knows. One is
made only where there is none.
"""

from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any

import relay
from relay import OPT_IN, Log, NotDelivered, Outcome
from relay.crm import Consent, distinct_groups

from .errors import GONE, INVALID, READ_ONLY, UNKNOWN
from .mender import Mender
from .options import Options
from .problem import Problem
from .record import Record, by_keys, of_key, properties, value
from .search import PhoneSearch
from .session import Session
from .writer import Writer, blocked

MOBILE = "mobilephone"
NONE_THERE = "no contact has the number (consent.create: false)"
NO_KEY = "consent: no contact has the number, and key is empty, so none can be made"
CONSENT_ADVICE = "correct options.consent, or the property in HubSpot (relay setup makes one)"


@dataclass(slots=True, eq=False)
class WordOfConsent:
    """One delivery's word. `records` are the contacts that it is written to."""

    delivery: relay.Delivery
    key: str
    records: list[Record] = field(default_factory=list)
    outcome: Outcome | None = None

    @property
    def mobile(self) -> str:
        return str(self.delivery.event.data.get("mobile") or "")

    @property
    def is_opt_in(self) -> bool:
        return self.delivery.last_word == OPT_IN

    def conclude(self) -> None:
        """Its end is that of the contacts that were not written, where there are such."""
        ends = [record.outcome for record in self.records]
        failed = [end for end in ends if isinstance(end, NotDelivered)]
        if not failed:
            self.outcome = ends[0]
            return
        told = copy(min(failed, key=lambda end: isinstance(end, relay.Reject)))
        if len(ends) > 1:
            count = f"{len(failed)} of {len(ends)} contacts with the number were not written"
            told.reason = f"{count}: {told.reason}"
        told.reason = f"consent: {told.reason}"
        self.outcome = told


class ConsentMender(Mender):
    """Mends what else a contact needs, but never the word: it is written as it is, or not."""

    def mend(self, record: Record, problem: Problem) -> Outcome | None:
        if problem.code in GONE:
            return relay.Retry(f"{problem.reason()}: the contact that was found has gone")
        blamed = {
            name
            for fault in problem.faults
            if fault.code in INVALID | UNKNOWN | READ_ONLY
            for name in fault.properties
        }
        if not blamed.isdisjoint(record.properties.keys() - {MOBILE}):
            advised = replace(problem, rule=replace(problem.rule, advice=CONSENT_ADVICE))
            return relay.Pause(advised.reason(), status=problem.status)
        return super().mend(record, problem)


class ConsentWriter:
    """Writes words of consent of one sink."""

    def __init__(
        self,
        session: Session,
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
        mender = ConsentMender(None, log, defaults=options.defaults, fixed=fixed)
        self._updater = Writer(session, options.object, mender)
        mender = ConsentMender(options.id_property, log, defaults=options.defaults, fixed=fixed)
        self._creator = Writer(session, options.object, mender)

    async def write(self, words: Sequence[WordOfConsent]) -> None:
        """Write each word to the contacts that are there; one that has none has no outcome."""
        try:
            found = await self._contacts(words)
        except (relay.Retry, relay.Pause) as failed:
            for each in words:
                each.outcome = failed
            return
        for each, ids in found.items():
            each.records = [self._update(each, known) for known in ids]
        await self._write(self._updater, words)

    async def write_to_made(self, words: Mapping[WordOfConsent, Record | None]) -> None:
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

    async def _write(self, writer: Writer, words: Iterable[WordOfConsent]) -> None:
        words = [each for each in words if each.records]
        for together in distinct_groups(
            (record for each in words for record in each.records), lambda record: record.key
        ):
            await writer.write(together)
        for each in words:
            each.conclude()

    def _update(self, word: WordOfConsent, known: str) -> Record:
        """For the contact with this id, by which results are told apart, too."""
        return Record(f"consent-{known}", known, self._values(word), target=known, is_bound=True)

    def _make(self, word: WordOfConsent) -> None:
        if not self._consent.create:
            word.outcome = relay.Delivered(NONE_THERE)
        elif not word.key:
            word.outcome = relay.Reject(NO_KEY)
        else:
            mobile = {MOBILE: word.mobile} if self._has_mobile else {}
            word.records = [Record(word.delivery.id, word.key, mobile | self._values(word))]

    def _values(self, word: WordOfConsent) -> dict[str, str]:
        return properties(self._consent.values(str(word.delivery.last_word)))

    async def _contacts(self, words: Sequence[WordOfConsent]) -> dict[WordOfConsent, list[str]]:
        """The ids of all contacts with the number, for each word."""
        found: dict[WordOfConsent, dict[str, None]] = {each: {} for each in words}
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
        found, problem = await self._creator.read(asked, [self._id_property], self._id_property)
        if problem:
            raise blocked(problem)
        return by_keys((value(each, self._id_property), str(each["id"])) for each in found)


def without_consent(values: Mapping[str, Any], consent: Consent | None) -> dict[str, Any]:
    """The properties of a record but those of consent, which is written alone."""
    names = {name.casefold() for name in (consent.words() if consent else ())}
    return {name: each for name, each in values.items() if name.casefold() not in names}
