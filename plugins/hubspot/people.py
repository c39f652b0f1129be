"""The people: who of them is in HubSpot already, with a key or without.

By key they are read, which is exact. Only who is new by key is looked for by phone, in HubSpot's
search (which lags behind by some moments, so nobody is told twice from it), and then by e-mail
address. Whoever is found without a key gets it with the write that follows.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from relay import Delivered, Log, Pause, Retry, e164, mask
from relay.crm import LruKeys

from .constants import ADDRESS
from .mender import EMAIL
from .options import Options
from .record import Record, by_keys, keep_filled, of_key, value
from .search import PHONES, PhoneSearch, Result
from .writer import Writer, blocked, end


class People:
    """Finds the contacts that records are about."""

    def __init__(self, search: PhoneSearch, writer: Writer, options: Options, log: Log) -> None:
        self._by_number = search
        self._writer = writer
        self._options = options
        self._log = log
        self._known: LruKeys[str] = LruKeys()
        self._keeps_phones = "phone" in options.match and not options.overwrite_phones
        self._has_number: LruKeys[str] = LruKeys()

    async def look(self, records: Sequence[Record]) -> None:
        """Learn of the records what their writing depends on; ends those that cannot be."""
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
        """Those whose person was there, and has gone: they are written with all that is theirs."""
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
        """Who of them is there now: ids by key. Ends those that cannot be asked for."""
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
        """Gives those that are not there."""
        if not records:
            return []
        by_key: defaultdict[str, list[Record]] = defaultdict(list)
        for record in records:
            by_key[record.key].append(record)
        id_property = self._options.id_property
        found, problem = await self._writer.read(list(by_key), self._wanted, id_property)
        if problem:
            end(records, blocked(problem))
            return []
        results = by_keys((value(result, id_property), result) for result in found)
        for key in list(by_key):
            if result := of_key(results, key):
                for record in by_key.pop(key):
                    self._learn(record, result)
        return [record for those in by_key.values() for record in those]

    def _learn(self, record: Record, result: Result) -> None:
        self._known.add(record.key, str(result["id"]))
        record.is_known = True
        if record.mobile in self._by_number.numbers(result):
            self._has_number.add(_pair(record), str(result["id"]))
        keep_filled(record, result, self._options.only_if_empty)

    # by phone

    async def _by_phone(self, records: Sequence[Record]) -> list[Record]:
        """Gives those that nobody was found for."""
        asked = [record for record in records if record.mobile]
        if not asked:
            return list(records)
        found = await self._search(asked)
        if found is None:
            return []
        for record in asked:
            self._choose(record, found[record.mobile])
        return [record for record in records if record.target is None]

    def _choose(self, record: Record, candidates: dict[str, Result]) -> None:
        """One that has no key: it is this person. Several, or another key: nobody can tell."""
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

    def _take(self, record: Record, result: Result) -> None:
        record.target = str(result["id"])
        keep_filled(record, result, self._options.only_if_empty)

    async def _search(self, records: Sequence[Record]) -> Mapping[str, dict[str, Result]] | None:
        """The contacts by number, and by id; None where it failed and the records are ended."""
        try:
            return await self._by_number.find({each.mobile for each in records}, self._wanted)
        except (Retry, Pause) as failed:
            end(records, failed)
            return None

    # by e-mail address

    async def _by_email(self, records: Sequence[Record]) -> None:
        """What people typed as theirs may be none, and keeps nobody from being written."""
        asked = {record.properties.get(EMAIL, "").strip().lower(): record for record in records}
        asked = {email: record for email, record in asked.items() if ADDRESS.fullmatch(email)}
        if not asked:
            return
        found, problem = await self._writer.read(list(asked), [*self._wanted, EMAIL], EMAIL)
        if problem and problem.holds_all():
            end(asked.values(), blocked(problem))
            return
        if problem:
            self._log.warning("people were not looked for by e-mail: %s", problem.reason(asked))
        for result in found:
            record = asked.pop(value(result, EMAIL).lower(), None)
            if record and not value(result, self._options.id_property):
                self._take(record, result)


def _pair(record: Record) -> str:
    """A key and a number: the key of a person with two numbers is not made of either."""
    return f"{record.key} {record.mobile}"
