"""The backfill: gives the people who are there already the key by which their events find them."""

from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence

import relay
from relay import Progress, Quota, country, e164
from relay.crm import KeyOwners, Pages, key_of_number

from .client import Client
from .contacts import LEAD, StoredRecord
from .options import Options
from .records import MOST_ROWS, Row
from .upsert import Writer

MOST_PAGES = 500_000
NO_EVENT = relay.Event(id="", source="", type="", subject=None, time="", data={})
NOT_OF_NUMBER = "no keys are filled in: they are made of more than the number (options.key)"

NO_PHONES = "no keys are filled in: it has none of phone_fields"


class Backfill:
    """One run over the object `kind`, with its numbers in the fields `phones`.

    A later one goes on where it stopped: whoever has a key is not looked at.
    """

    def __init__(
        self,
        client: Client,
        options: Options,
        kind: str,
        phones: Sequence[str],
        writer: Writer,
        quota: Quota,
        progress: Progress,
    ) -> None:
        self._client = client
        self._options = options
        self._kind = kind
        self._phones = phones
        self._writer = writer
        self._quota = quota
        self._progress = progress
        self._total = 0
        self._done = 0
        self._counts: Counter[str] = Counter()

    async def run(self) -> list[str]:
        """What was done, a line each. Raises Retry or Pause."""
        if not key_of_number(self._options.key, "+12125550123", "US"):
            return [NOT_OF_NUMBER]
        if not self._phones:
            return [NO_PHONES]
        owners = await self._owners()
        while owners:
            if self._quota.bulk_wait():
                self._counts["left for later, as the day's API calls are used: run it again"] += (
                    len(owners)
                )
                break
            await self._write(owners.take(MOST_ROWS))
        told = [f"{count} {what}" for what, count in self._counts.items()]
        return told or ["every person with a number has a key"]

    async def _owners(self) -> KeyOwners:
        """The record that is to get each key."""
        owners = KeyOwners()
        async for record in self._records():
            keys = self._keys(record)
            if not keys:
                self._count("people without a possible number")
            for key in keys:
                owners.add(key, record["Id"])
        for ids in owners.shared.values():
            self._count("people who share a number: give one of them the key, or merge", len(ids))
        return owners

    async def _records(self) -> AsyncIterator[StoredRecord]:
        numbered = " OR ".join(f"{name} != null" for name in self._phones)
        converted = " AND IsConverted = false" if self._kind == LEAD else ""
        query = (
            f"SELECT Id, {', '.join(self._phones)} FROM {self._kind}"  # noqa: S608  names only
            f" WHERE {self._options.external_id} = null AND ({numbered}){converted} ORDER BY Id"
        )
        page = await self._client.page("query", q=query)
        self._total = page.total
        self._progress(0, self._total)
        pages = Pages(MOST_PAGES)
        while True:
            for record in page.rows:
                yield StoredRecord(record)
            if page.following is None:
                return
            pages.turn(page.following, len(page.rows))
            page = await self._client.page(page.following)

    def _keys(self, record: StoredRecord) -> list[str]:
        """The key of the first field that has a number."""
        for name in self._phones:
            number = e164(str(record[name] or ""), self._options.country)
            if number:
                own = country(number, self._options.country)
                key = key_of_number(self._options.key, number, own)
                return [key] if key else []
        return []

    async def _write(self, people: Iterable[tuple[str, str]]) -> None:
        rows = [
            Row(relay.Delivery(record, NO_EVENT, {}), key, {}, id=record) for key, record in people
        ]
        await self._writer.write(rows)
        for row in rows:
            match row.outcome:
                case relay.Delivered():
                    self._count("people have got their key")
                case relay.Pause() as pause:
                    raise pause
                case relay.Retry(reason=reason) | relay.Reject(reason=reason):
                    self._count(f"people could not be given a key: {reason}")

    def _count(self, what: str, count: int = 1) -> None:
        self._counts[what] += count
        self._done += count
        self._progress(self._done, self._total)
