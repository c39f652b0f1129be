"""Contacts that are there already: by key, phone or e-mail address; and their static lists.

By key they are read, which is exact. Only who is new by key is looked for by phone, in HubSpot's
search (which lags behind by some moments, so no search is asked twice for one person), and then
by e-mail address. Whoever is found without a key gets it with the write that follows. Each written
contact is added to the lists that the options choose for its event; who is in a list already stays
there once (HubSpot's guide to lists). Where a list takes no contact, only the membership is left
out: the contact is written by then, and the delivery says so.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import orjson

import relay
from relay import (
    Delivered,
    EvaluationError,
    Log,
    NotDelivered,
    Outcome,
    Pause,
    Rate,
    Retry,
    StrictLimiter,
    SystemClock,
    e164,
    mask,
    mask_all,
    national,
)
from relay.crm import LruKeys, Pages

from .client import Client
from .errors import ApiError, blocked, not_named
from .options import CONTACTS, LIST_ID, Options
from .records import BatchItem, Record, by_keys, keep_filled, of_key, value
from .upsert import EMAIL, Writer, end

ADDRESS = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s.]+")
SEARCHES = Rate(5, 1.0)
"""HubSpot allows so many to all of an account's apps together."""
PAGE = 200
MOST_PAGES = 10_000 // PAGE
"""HubSpot's search gives no more results than that."""
LONGEST = 3_000
"""Characters of a question (HubSpot's search guide)."""
LATER_PAGE = len(b',"after":"10000"')
PHONES = {
    "phone": "hs_searchable_calculated_phone_number",
    "mobilephone": "hs_searchable_calculated_mobile_number",
}
SearchResult = dict[str, Any]


class PhoneSearch:
    """Finds the contacts that have a number, however it is written."""

    def __init__(self, client: Client, options: Options, account: relay.Account) -> None:
        self._client = client
        self._path = client.paths.objects(options.object, "search")
        self._country = options.country
        self._searches = account.shared("searches", make_limiter)

    async def find(
        self, mobiles: Collection[str], properties: Sequence[str] = ()
    ) -> Mapping[str, dict[str, SearchResult]]:
        """All that have one of the numbers: by number, and by id. Raises Retry or Pause."""
        found: dict[str, dict[str, SearchResult]] = defaultdict(dict)
        numbers = sorted({national(mobile) or mobile for mobile in mobiles})
        for content in questions(numbers, list(dict.fromkeys([*properties, *PHONES]))):
            await self._read(content, frozenset(mobiles), found)
        return found

    async def _read(
        self,
        content: dict[str, Any],
        mobiles: frozenset[str],
        found: dict[str, dict[str, SearchResult]],
    ) -> None:
        """All the pages of one question."""
        pages = Pages(MOST_PAGES)
        while True:
            async with self._searches.turn():
                answer = await self._client.post(self._path, content)
            is_told = "total" in answer.body and answer.are_records()
            error = answer.error or (None if is_told else not_named())
            if error:
                raise blocked(error)
            results = answer.list("results")
            for result in results:
                for mobile in self.numbers(result) & mobiles:
                    found[mobile][str(result["id"])] = result
            after = answer.next_page()
            if after is None:
                return
            pages.turn(after, len(results))
            content["after"] = after

    def numbers(self, result: SearchResult) -> set[str]:
        """Its numbers in E.164: what the search compares has no country."""
        numbers = (e164(value(result, name), self._country) for name in PHONES)
        return {number for number in numbers if number}


def make_limiter() -> StrictLimiter:
    """For all searches in an account."""
    return StrictLimiter(SEARCHES, SystemClock())


def questions(numbers: Iterable[str], properties: Sequence[str]) -> Iterator[dict[str, Any]]:
    """What to ask for these numbers, in as few questions as HubSpot's limit of length allows."""
    empty = len(orjson.dumps(_question([], properties))) + LATER_PAGE
    room = left = (LONGEST - empty) // len(PHONES)
    part: list[str] = []
    for number in numbers:
        length = len(orjson.dumps(number)) + 1
        if part and length > left:
            yield _question(part, properties)
            part, left = [], room
        part.append(number)
        left -= length
    if part:
        yield _question(part, properties)


def _question(numbers: list[str], properties: Sequence[str]) -> dict[str, Any]:
    groups = [
        {"filters": [{"propertyName": name, "operator": "IN", "values": numbers}]}
        for name in PHONES.values()
    ]
    return {"filterGroups": groups, "properties": list(properties), "limit": PAGE}


class ContactFinder:
    """Finds the contacts that are there already for records to write."""

    def __init__(self, search: PhoneSearch, writer: Writer, options: Options, log: Log) -> None:
        self._by_number = search
        self._writer = writer
        self._options = options
        self._log = log
        self._known: LruKeys[str] = LruKeys()
        self._keeps_phones = "phone" in options.match and not options.overwrite_phones
        self._has_number: LruKeys[str] = LruKeys()

    async def look(self, records: Sequence[Record]) -> None:
        """Look up what the writing of the records depends on; sets the outcome where that fails."""
        for record in records:
            record.is_known = self._known.get(record.key) is not None
        new = await self._by_key([record for record in records if self._is_read(record)])
        if "phone" in self._options.match:
            new = await self._by_phone(new)
        if "email" in self._options.match:
            await self._by_email(new)
        for record in records:
            if self._has_number.get(_pair(record)):
                names = self._own_phones(record)
                record.spared = {name: record.properties.pop(name) for name in names}

    def returned(self, records: Sequence[Record]) -> list[Record]:
        """The records of persons that have gone meanwhile; they are written again as a whole."""
        new = [record for record in records if record.is_new and record.spared]
        for record in new:
            record.restore()
            record.outcome = None
        return new

    def remember(self, records: Sequence[Record]) -> None:
        """Those that are written are known."""
        for record in records:
            if isinstance(record.outcome, Delivered) and record.outcome.reference:
                self._known.add(record.key, record.outcome.reference)
                if self._own_phones(record):
                    self._has_number.add(_pair(record), record.outcome.reference)

    async def ids(self, records: Sequence[Record]) -> dict[str, str]:
        """Ids of the contacts that are there, by key. Sets the outcome where that fails."""
        if not records:
            return {}
        absent = {record.key for record in await self._by_key(records)}
        asked = [each for each in records if each.outcome is None and each.key not in absent]
        return {each.key: known for each in asked if (known := self._known.get(each.key))}

    def _is_read(self, record: Record) -> bool:
        """Whether something has to be known of it beforehand."""
        if not record.properties.keys().isdisjoint(self._options.only_if_empty):
            return True
        if self._own_phones(record) and not self._has_number.get(_pair(record)):
            return True
        return len(self._options.match) > 1 and not record.is_known

    @property
    def _wanted(self) -> list[str]:
        phones = PHONES if self._keeps_phones else ()
        return [self._options.id_property, *self._options.only_if_empty, *phones]

    def _own_phones(self, record: Record) -> list[str]:
        """The properties that would give the person the event's own number.

        A person who has it keeps `phone` and `mobilephone` as they are: it may be in the other.
        """
        if not self._keeps_phones:
            return []
        given = {name: record.properties.get(name, "") for name in PHONES}
        country = self._options.country
        return [
            name for name, text in given.items() if text and e164(text, country) == record.mobile
        ]

    async def _by_key(self, records: Sequence[Record]) -> list[Record]:
        """Returns the records that are not there."""
        if not records:
            return []
        by_key: defaultdict[str, list[Record]] = defaultdict(list)
        for record in records:
            by_key[record.key].append(record)
        id_property = self._options.id_property
        found, error = await self._writer.read(list(by_key), self._wanted, id_property)
        if error:
            end(records, blocked(error))
            return []
        results = by_keys((value(result, id_property), result) for result in found)
        for key in list(by_key):
            if result := of_key(results, key):
                for record in by_key.pop(key):
                    self._learn(record, result)
        return [record for those in by_key.values() for record in those]

    def _learn(self, record: Record, result: SearchResult) -> None:
        self._known.add(record.key, str(result["id"]))
        record.is_known = True
        if record.mobile in self._by_number.numbers(result):
            self._has_number.add(_pair(record), str(result["id"]))
        keep_filled(record, result, self._options.only_if_empty)

    # by phone

    async def _by_phone(self, records: Sequence[Record]) -> list[Record]:
        """Set the targets that are found; return the records without one."""
        asked = [record for record in records if record.mobile]
        if not asked:
            return list(records)
        found = await self._search(asked)
        if found is None:
            return []
        for record in asked:
            self._choose(record, found[record.mobile])
        return [record for record in records if record.target is None]

    def _choose(self, record: Record, candidates: dict[str, SearchResult]) -> None:
        """Take the only candidate if it has no key. Several, or another key, are ambiguous."""
        match list(candidates.values()):
            case [] | ():
                return
            case [one] if not value(one, self._options.id_property):
                self._take(record, one)
                self._has_number.add(_pair(record), str(one["id"]))
                candidates.clear()  # for the next of this batch with the same number
            case several:
                self._log.warning(
                    "%d contacts have the number %s, none of which can be told to be the one: "
                    "a new contact is made; merge them in HubSpot",
                    len(several),
                    mask(record.mobile),
                )

    def _take(self, record: Record, result: SearchResult) -> None:
        record.target = str(result["id"])
        keep_filled(record, result, self._options.only_if_empty)

    async def _search(
        self, records: Sequence[Record]
    ) -> Mapping[str, dict[str, SearchResult]] | None:
        """The contacts by number, and by id; None where it failed and the records are ended."""
        try:
            return await self._by_number.find({each.mobile for each in records}, self._wanted)
        except (Retry, Pause) as failed:
            end(records, failed)
            return None

    # by e-mail address

    async def _by_email(self, records: Sequence[Record]) -> None:
        """A typed address may be invalid, and must not keep a contact from being written."""
        asked = {record.properties.get(EMAIL, "").strip().lower(): record for record in records}
        asked = {email: record for email, record in asked.items() if ADDRESS.fullmatch(email)}
        if not asked:
            return
        found, error = await self._writer.read(list(asked), [*self._wanted, EMAIL], EMAIL)
        if error and error.holds_all():
            end(asked.values(), blocked(error))
            return
        if error:
            self._log.warning("people were not looked for by e-mail: %s", error.reason(asked))
        for result in found:
            record = asked.pop(value(result, EMAIL).lower(), None)
            if record and not value(result, self._options.id_property):
                self._take(record, result)


def _pair(record: Record) -> str:
    """A key and a number: the key of a person with two numbers is not made of either."""
    return f"{record.key} {record.mobile}"


ADDED, MISSING = "recordsIdsAdded", "recordIdsMissing"
NO_LIST = 404
NOWHERE = "0"
MOST_READ = 100
"""Lists in a question."""
STATIC = ("MANUAL", "SNAPSHOT")
CONTACT = "0-1"
TYPE_ID = re.compile(r"\d-\d+")
NOT_FOUND = "HubSpot did not find the contact for it"
NO_ID = "its value is not the id of a list"
ADVICE = "the list has to be there and static (relay check --online)"


class Lists:
    """Adds contacts to lists, a request for each list."""

    def __init__(self, client: Client, options: Options, log: Log) -> None:
        self._client = client
        self._templates = options.lists
        self._object = options.object
        self._log = log

    async def add(self, sent: Sequence[BatchItem]) -> None:
        """Add their contacts; sets the outcome of items that have to be tried again."""
        members: dict[str, list[BatchItem]] = {}
        for each in sent:
            for list_id in self._chosen(each):
                members.setdefault(list_id, []).append(each)
        stop: Outcome | None = None
        for list_id, those in members.items():
            waiting = [each for each in those if each.outcome is None]
            if waiting and stop is None:
                stop = await self._add(list_id, waiting)
            for each in waiting:
                each.outcome = each.outcome or stop

    async def problems(self) -> list[str]:
        """What keeps contacts out of the lists that the options name, a line each.

        Only what pauses the sink is a problem. Adding no contact shows the scopes alone.
        """
        if not self._templates:
            return []
        answer = await self._client.put(self._client.paths.members(NOWHERE), [])
        if answer.error and _is_of_all(answer.error):
            return [f"options.lists: {answer.error.reason()}"]
        named = {each for template in self._templates for each in template.choices}
        ids = sorted(each for each in named if re.fullmatch(LIST_ID, each))[:MOST_READ]
        if not ids:
            return []
        answer = await self._client.get(self._client.paths.lists(), listIds=ids)
        if answer.error:
            told = f"options.lists: {answer.error.reason()}"
            return [told if _is_of_all(answer.error) else relay.Notice(told)]
        there = {str(each.get("listId")): each for each in answer.list("lists")}
        unfit = (_unfit(each, there.get(each), self._object) for each in ids)
        return [relay.Notice(f"options.lists: {each}") for each in unfit if each]

    def _chosen(self, sent: BatchItem) -> dict[str, None]:
        """The ids of the lists for its event; what is none is left out, and noted."""
        chosen: dict[str, None] = {}
        for template in self._templates:
            try:
                list_id = template.render(sent.delivery.event).strip()
            except EvaluationError as error:
                sent.notes.append(f"lists: {error}")
                continue
            if re.fullmatch(LIST_ID, list_id):
                chosen[list_id] = None
            elif list_id:
                sent.notes.append(f"lists: {NO_ID}")
        return chosen

    async def _add(self, list_id: str, sent: Sequence[BatchItem]) -> Outcome | None:
        """Add them to one list; gives what keeps them, and others, from being added."""
        ids = list(dict.fromkeys(each.contact for each in sent))
        answer = await self._client.put(self._client.paths.members(list_id), ids)
        error = answer.error or (None if ADDED in answer.body else not_named())
        if error is None:
            found = answer.body.get(MISSING)
            absent = set(map(str, found)) if isinstance(found, list) else set()
            self._absent(list_id, [each for each in sent if each.contact in absent])
        elif _is_of_all(error):
            outcome = error.outcome()
            assert isinstance(outcome, NotDelivered)
            outcome.reason = f"lists: {outcome.reason}"
            return outcome
        else:
            told = replace(error, rule=replace(error.rule, advice=ADVICE))
            self._note(list_id, sent, told.reason())
        return None

    def _absent(self, list_id: str, sent: Sequence[BatchItem]) -> None:
        """HubSpot did not find these contacts: they may be too new, or the list of others."""
        for each in sent:
            if each.delivery.attempt == 1:
                each.outcome = relay.Retry(f"lists: {NOT_FOUND}")
        self._note(list_id, [each for each in sent if each.outcome is None], NOT_FOUND)

    def _note(self, list_id: str, sent: Sequence[BatchItem], why: str) -> None:
        text = mask_all(f"not in list {list_id}: {why}")
        for each in sent:
            each.notes.append(text)
        if sent:
            self._log.warning("%s contacts %s", f"{len(sent):,}", text)


def _is_of_all(error: ApiError) -> bool:
    """Whether it says nothing about the list: another would meet the same."""
    return error.holds_all() and error.status != NO_LIST


def _unfit(list_id: str, known: Mapping[str, Any] | None, kind: str) -> str | None:
    """Why this list takes no records of this kind."""
    if known is None:
        return f"HubSpot has no list {list_id}"
    which = f"the list {list_id} ({known.get('name')})"
    if known.get("processingType") not in STATIC:
        return f"{which} is not static: HubSpot fills it by itself"
    of = CONTACT if kind in CONTACTS else kind
    if TYPE_ID.fullmatch(of) and known.get("objectTypeId") != of:
        return f"{which} is not one of {kind}"
    return None
