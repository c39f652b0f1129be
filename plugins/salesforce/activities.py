"""Activities: a second record for each event, a Task on the person's timeline or a custom object.

A custom object names the person by the key. The lookup of a Task leads to several objects and
takes no key: a Task names the person by record id, which is the one that the batch has learnt. So
does a custom object with a lookup for each of several objects.
"""

from collections.abc import Sequence

import httpx

import relay
from relay import outcome_of

from .lookup import Lookup
from .options import PREFIXES, Activity, Options
from .row import Row, fields_of
from .writer import Writer
from .writing import Writing

NOBODY = "no record has the key of the person whose timeline this is for"


class Activities:
    """Makes the activities of one sink, and writes them.

    `by_id` says that they name the person by record id.
    """

    def __init__(
        self, activity: Activity, options: Options, lookup: Lookup, writer: Writer
    ) -> None:
        self.by_id = not isinstance(activity.contact, str)
        self._activity = activity
        self._external_id = options.external_id
        self._kinds = options.kinds
        self._lookup = lookup
        self._writer = writer

    def row(self, delivery: relay.Delivery, key: str) -> Row:
        """The activity of the event. Raises EvaluationError."""
        activity = self._activity
        dropped: list[str] | None = None if activity.on_invalid == "dead" else []
        record = activity.map.record(delivery.event, dropped=dropped)
        fields = fields_of(record, activity.external_id)
        if isinstance(activity.contact, str):
            fields |= {activity.contact: {self._external_id: key}}
        notes = [f"activity without {each}" for each in dropped or ()]
        return Row(delivery, delivery.id, fields, notes=notes)

    async def write(self, batch: Sequence[Writing]) -> None:
        """Give the activity of each its outcome."""
        if self.by_id:
            await self._name_people(batch)
        rows = [each.activity for each in batch if each.activity]
        await self._writer.write([row for row in rows if row.outcome is None])

    async def _name_people(self, batch: Sequence[Writing]) -> None:
        known: dict[str, str] = {}
        failed: Exception = relay.Retry(NOBODY)
        if unknown := [each.key for each in batch if each.key and not each.person()]:
            try:
                known = await self._with_keys(unknown)
            except (httpx.HTTPError, relay.Retry, relay.Pause) as error:
                failed = error
        for each in batch:
            assert each.activity is not None
            if person := each.person() or known.get(each.key.casefold()):
                kind = PREFIXES.get(person[:3], self._kinds[-1])
                each.activity.fields[self._activity.reference(kind)] = person
            elif isinstance(each.consent, relay.Delivered):
                each.activity = None  # nobody has the number
            else:
                each.activity.outcome = outcome_of(failed, 0.0)

    async def _with_keys(self, keys: Sequence[str]) -> dict[str, str]:
        """The record ids of the people who have these keys, by key in lower case.

        The first object of the sink that has a key counts. Raises Retry or Pause.
        """
        ids: dict[str, str] = {}
        for kind in self._kinds:
            wanted = [key for key in keys if key.casefold() not in ids]
            for found in await self._lookup.with_keys(kind, wanted) if wanted else ():
                if known := found.record["Id"]:
                    ids[str(found.by[self._external_id]).casefold()] = known
        return ids
