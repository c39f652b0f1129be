"""The people who are there already: found by key, and those without one by their number."""

from collections.abc import Iterable, Mapping, Sequence

import relay
from relay import Log, e164
from relay.crm import LruKeys

from .fields import Fields
from .lookup import Found, Lookup
from .mending import spelt
from .options import Options
from .row import Row
from .session import Session

Place = tuple[str, str | None]
"""An object, and the id of a record of it; without an id, the record that has the key."""
NOWHERE: Place = ("", None)


class People:
    """Looks rows up before they are written, where the options need that.

    In a sink with one object, the key finds the record when it is written. In one with several,
    each row gets the object and the id of its person here: the first object that has the key, else
    the first that has the number.
    """

    def __init__(self, session: Session, options: Options, fields: Fields, log: Log) -> None:
        self._kinds = options.kinds
        self._are_several = len(options.kinds) > 1
        self._lookup = Lookup(session, options, fields, follows=self._are_several)
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
            if e164(str(row.fields[name]), self._country) == row.delivery.event.data.get("mobile"):
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

    async def _with_keys(self, kind: str, rows: Sequence[Row]) -> Mapping[str, Found]:
        """The records that have the rows' keys, by key."""
        if not rows:
            return {}
        keys = [row.key for row in rows]
        found = await self._lookup.with_keys(kind, keys, self._only_if_empty)
        return {str(each.by[self._external_id]).casefold(): each for each in found}

    def _take_by_key(self, row: Row, found: Found) -> None:
        if self._are_several:
            self._place(row, found)
        else:
            self.known.add(row.key, NOWHERE)
        self._keep(row, found)

    def _place(self, row: Row, found: Found) -> None:
        row.kind, row.id = found.kind, found.record["Id"]
        row.has_key = bool(found.record[self._external_id])

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
                if all(keys.setdefault(known, row.key) == row.key for known in people):
                    self._take(row, list(people.values()))

    def _take(self, row: Row, people: Sequence[Found]) -> None:
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

    def _of_first_object(self, people: Sequence[Found]) -> Sequence[Found]:
        first = min(people, key=lambda each: self._kinds.index(each.kind)).kind
        return [each for each in people if each.kind == first]

    async def _with_numbers(self, numbers: Iterable[str]) -> dict[str, dict[str, Found]]:
        """The people without a key, by number and id."""
        found: dict[str, dict[str, Found]] = {}
        for each in await self._lookup.with_numbers(numbers, self._only_if_empty):
            known = each.record["Id"]
            if known and not each.record[self._external_id] and not each.by[self._external_id]:
                for number in self._lookup.numbers(each.by, self._country):
                    found.setdefault(number, {})[known] = each
        return found

    def _keep(self, row: Row, found: Found) -> None:
        """Leave out what is only for empty fields, where they are not."""
        for name in spelt(self._only_if_empty, row.fields):
            if found.record[name] not in (None, ""):
                del row.fields[name]
