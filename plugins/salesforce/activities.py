"""Activities and campaign members: what is written beside a person's record for each event.

An activity is a Task on the person's timeline or a record of a custom object. A custom object
names the person by the key. The lookup of a Task leads to several objects and takes no key: a
Task names the person by record id, which the batch has found or written. So does a custom object
with a lookup for each of several objects.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import httpx

import relay
from relay import Log, outcome_of
from relay.crm import LruKeys, distinct_groups

from .client import Client
from .contacts import LONGEST_QUERY, Lookup, literal, parts
from .options import PERSONS, PREFIXES, ActivityOptions, Campaign, Options
from .records import BatchItem, Row, Target, fields_of
from .upsert import Writer

NOBODY = "no record has the key of the person whose timeline this is for"


class Activities:
    """Makes the activities of one sink, and writes them.

    `by_id` says that they name the person by record id.
    """

    def __init__(
        self, activity: ActivityOptions, options: Options, lookup: Lookup, writer: Writer
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

    async def write(self, batch: Sequence[BatchItem]) -> None:
        """Give the activity of each its outcome."""
        if self.by_id:
            await self._name_people(batch)
        rows = [each.activity for each in batch if each.activity]
        await self._writer.write([row for row in rows if row.outcome is None])

    async def _name_people(self, batch: Sequence[BatchItem]) -> None:
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
                each.activity = None  # no person has the number
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


MEMBER = "CampaignMember"


class CampaignMembers:
    """Makes people members of campaigns, and keeps their status up to date."""

    def __init__(self, client: Client, campaign: Campaign, log: Log) -> None:
        self._client = client
        self._campaign = campaign
        self._writer = Writer(client, Target(MEMBER), None, log)
        # Without `fold`: ids of 15 characters differ by case alone.
        self._known: LruKeys[str] = LruKeys()
        # Each member locks its campaign: batches that came together would refuse each other.
        self._turn = asyncio.Lock()

    def row(self, delivery: relay.Delivery, kind: str, person: str) -> Row | None:
        """The member to write; None where the event has no campaign.

        `person` is the id of a record of the object `kind`. Raises EvaluationError.
        """
        campaign = self._campaign.id.render(delivery.event).strip()
        status = (
            self._campaign.status.render(delivery.event).strip() if self._campaign.status else ""
        )
        if not campaign:
            return None
        fields = {"CampaignId": campaign, PERSONS[kind]: person}
        fields |= {"Status": status} if status else {}
        return Row(delivery, f"{campaign} {person}", fields, kind=kind)

    async def write(self, rows: Sequence[Row]) -> None:
        """Give each row its outcome. One that is a member already gets the status alone.

        Those of one member go one after the other: the last one's status is to stay.
        """
        async with self._turn:
            for wave in distinct_groups(rows, Row.identity):
                await self._write_wave(wave)

    async def _write_wave(self, rows: Sequence[Row]) -> None:
        statuses = {row: row.fields.get("Status", "") for row in rows}
        for row in rows:
            if row.key in self._known and statuses[row] in ("", self._known.get(row.key)):
                row.outcome = relay.Delivered()
        new = [row for row in rows if row.outcome is None]
        await self._writer.write(new)
        for kind in PERSONS:
            there = [row for row in new if row.kind == kind and _was_there(row)]
            await self._update(PERSONS[kind], [row for row in there if "Status" in row.fields])
        for row in new:
            if isinstance(row.outcome, relay.Delivered):
                self._known.add(row.key, statuses[row])
            else:
                self._known.discard(row.key)

    async def _update(self, person: str, rows: Sequence[Row]) -> None:
        if not rows:
            return
        found = await self._members(person, rows)
        updates = []
        for row in rows:
            place = row.fields["CampaignId"][:15], str(row.fields[person])
            known, status = found.get(place, ("", ""))
            if known and status != row.fields["Status"]:
                row.id, row.fields = known, {"Status": row.fields["Status"]}
                updates.append(row)
        await self._writer.write(updates)

    async def _members(
        self, person: str, rows: Sequence[Row]
    ) -> Mapping[tuple[str, str], tuple[str, str]]:
        """Id and status of the members that there are, by campaign and person."""
        campaigns = ",".join(dict.fromkeys(literal(row.fields["CampaignId"]) for row in rows))
        head = (
            f"SELECT Id, CampaignId, {person}, Status FROM {MEMBER}"  # noqa: S608  names are our own, values quoted
            f" WHERE CampaignId IN ({campaigns}) AND {person} IN "
        )
        people: Iterable[str] = dict.fromkeys(literal(str(row.fields[person])) for row in rows)
        found: dict[tuple[str, str], tuple[str, str]] = {}
        for part in parts(people, LONGEST_QUERY - len(head)):
            asked = f"{head}({','.join(part)})"
            for each in await self._client.rows("query", "records", q=asked):
                place = str(each.get("CampaignId"))[:15], str(each.get(person))
                found[place] = each["Id"], str(each.get("Status") or "")
        return found


def _was_there(row: Row) -> bool:
    """Whether Salesforce said that the person is a member already: it names no record then."""
    return isinstance(row.outcome, relay.Delivered) and row.outcome.reference is None


def statuses(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """The labels of a campaign's statuses (CampaignMemberStatus)."""
    return [str(each["Label"]) for each in found if each.get("Label")]
