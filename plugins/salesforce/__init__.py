"""Write each event to Salesforce: one contact, and one activity for each event.

sinks:
  crm:
    plugin: salesforce
    map: {FirstName: "{{ data.fields.Name | first_name }}", MobilePhone: "{{ data.mobile }}"}
    timeout: 60s                      # where triggers and flows take their time
    options:
      login_url: https://acme.my.salesforce.com  # My Domain; https://acme--NAME.sandbox.my.sales…
      client_id: ${SF_CLIENT_ID}      # of an External Client App
      client_secret: ${SF_CLIENT_SECRET}  # its client credentials flow; or its JWT bearer flow:
      # jwt: {username: relay@acme.example, key: "${credential:sf-key}"}  # the private key, PEM
      api_version: v66.0
      object: Contact                 # or Lead, or any other; or, in its place:
      # objects: [Contact, Lead]      # people are looked for in both, new ones made in the last
      external_id: SMS_Key__c         # a text field, "External ID" and "Unique": `relay setup crm`
      key: "{{ data.mobile | digits }}"  # what goes into it; "{{ id }}": one record an event
      match: [key]                    # [key, phone]: people without a key are found by number
      phone_fields: [MobilePhone, Phone]
      overwrite_phones: false         # true: map writes the numbers of people who are there, too
      country: US                     # that numbers without + in Salesforce belong to
      duplicates: fail                # where a duplicate rule objects: fail (dead), allow_save (if
                                      # the rule allows it), use_match (update the one it found)
      assignment_rules: false
      on_invalid: drop                # an invalid value is left out; truncate: what is too long is
                                      # cut; both are logged, and shown by `relay events show`;
                                      # dead: the delivery is dead
      defaults: {LastName: Unknown}   # only where Salesforce says that a required field is missing
      only_if_empty: [LeadSource]     # never overwritten; one read more for each batch
      campaign: {id: 701Hs0000000001, status: Responded}  # both may be templates
      test_events: skip               # send: callbacks of `relay send` go there, too
      quota: {share: 0.9}             # opt-outs alone have the rest of the org's calls of 24 hours
      consent: {field: SMS_Opt_Out__c, opted_out: true, opted_in: false}  # none by default: see
                                      # below; fields: {NAME: {opted_out: …, opted_in: …}}, when,
                                      # create: true
      activity:                       # none by default
        object: Task                  # a completed task of the person; or an object of your own:
        external_id: SMS_Event_Id__c  # "External ID" and "Unique", filled with the event's id
        map: {TaskSubtype: Call}      # beside Subject, Status, ActivityDate and Description
        on_invalid: truncate
        defaults: {}
      # activity:
      #   object: SMS_Event__c
      #   external_id: Event_Id__c
      #   contact: Contact__r         # the relationship name of its lookup; with two objects:
      #                               # {Contact: Contact__r, Lead: Lead__r}
      #   map: {Name: "{{ type }}", Message__c: "{{ data.message }}"}

200 records go in one call, with one more each for activities, new campaign members, only_if_empty
and records to mend; `match` by phone makes two or three for numbers that were not seen before, and
tasks of events that are stale make one. A Task goes to the record that the event was written to.
Nothing is tried twice here but after a token has ended; retries are the relay's. Sinks of one org
share its calls of 24 hours, which are known after a restart, and those with the same login one
sign-in. With `objects: [Contact, Lead]` a person who was not seen before costs a call to each
object, by key, and the one search looks at both. A converted lead leads to its contact. Whoever is
in neither is made in the last. Options and `map` may name fields of either object: what only the
other one has is left out of a record; the relay reads which fields there are when the sink starts,
and after a pause. With `consent` the sink gets every event that carries a word of consent, whatever
its `when` says. The last word of the number is written alone, with no other field beside it, to
each record of the sink's objects that has the number in its key or its phone_fields, and to the
contact that a converted lead has become: two calls to find them and one to write them, or five for
two objects. A record is made, with the number and `defaults`, where there is none. `map` does not
write these fields.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, ClassVar

import httpx

import relay
from relay import EvaluationError, NotDelivered, Outcome, Progress, Slices, no_progress, outcome_of
from relay.crm import Rule, without_consent

from .activities import Activities, CampaignMembers
from .backfill import Backfill
from .client import Client
from .consent import ConsentWrite, ConsentWriter
from .contacts import ContactFinder, Fields, Lookup, is_of_contact
from .errors import MOVED
from .options import ActivityOptions
from .options import Options as SalesforceOptions
from .records import MOST_ROWS, BatchItem, Row, Target, fields_of
from .setup import SetupIssue, setup_issues
from .upsert import Repair, Writer

NO_WORD = "nothing is written: the sink has no map, and the event says no word of consent"
NO_MAP = "the sink has no map: add one that names the fields of Salesforce to write"
ALLOW_SAVE = {"Sforce-Duplicate-Rule-Header": "allowSave=true"}
NOTHING_TO_DO = "nothing is missing in the org"


class Salesforce(relay.Sink):
    """Writes contacts first; of those that were accepted, campaign members and activities."""

    Options = SalesforceOptions
    max_batch: ClassVar[int] = MOST_ROWS
    blank = "omit"

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        options: SalesforceOptions = self.options
        self.quota = self._quota = self.account(*options.org()).quota(share=options.quota.share)
        login = self.account(*options.login())
        self._client = Client(options, self.http, self._quota, login)
        self._fields = Fields(self._client, options.kinds)
        self._people = ContactFinder(self._client, options, self._fields, self.log)
        self._contacts = {
            kind: self._writer(
                options,
                kind,
                options.external_id,
                mapped=self.columns or (),
                use_match=options.duplicates == "use_match",
                rules=MOVED if len(options.kinds) > 1 else (),
            )
            for kind in options.kinds
        }
        self._activities = self._make_activities(options)
        self._members = (
            CampaignMembers(self._client, options.campaign, self.log) if options.campaign else None
        )
        self._consent = (
            ConsentWriter(self._client, options, options.consent, self._fields, self.log)
            if options.consent
            else None
        )

    def _make_activities(self, options: SalesforceOptions) -> Activities | None:
        activity = options.activity
        if activity is None:
            return None
        writer = self._writer(
            activity,
            activity.object,
            activity.external_id,
            mapped=activity.map.columns,
            rules=() if isinstance(activity.contact, str) else MOVED,
            kept=_kept(activity, options.kinds),
        )
        lookup = Lookup(self._client, options, self._fields, follows=True)
        return Activities(activity, options, lookup, writer)

    @classmethod
    def drops_invalid(cls, options: SalesforceOptions) -> bool:
        return bool(options.on_invalid != "dead")

    @classmethod
    def takes_consent(cls, options: SalesforceOptions, event: relay.Event) -> bool:
        return options.consent is not None and options.consent.takes(event)

    async def open(self) -> None:
        if self._lacks_map():
            raise relay.Pause(NO_MAP)

    def _lacks_map(self) -> bool:
        """Whether there is nothing to write: consent needs no map."""
        return self.columns is None and self._consent is None

    async def check(self) -> list[str]:
        """Sign in, and hold the options against what the org describes."""
        missing = [NO_MAP] if self._lacks_map() else []
        try:
            self._fields.renew()
            found = await self._issues()
        except (httpx.HTTPError, NotDelivered) as error:
            return [*missing, outcome_of(error, 0.0).reason]
        return [*missing, *(issue.line() for issue in found)]

    async def _issues(self) -> list[SetupIssue]:
        return await setup_issues(self._client, self.options, self.columns, self.constants)

    async def setup(  # type: ignore[override]  # `create` is given to those who take it
        self, *, backfill: bool = False, progress: Progress = no_progress
    ) -> list[str]:
        """Say where to click for what is missing; give people their keys.

        Raises Retry or Pause.
        """
        found = [issue for issue in await self._issues() if not issue.is_notice]
        told = [str(issue) for issue in found] or [NOTHING_TO_DO]
        if not backfill:
            return told
        if any(issue.blocks for issue in found):
            return [*told, "then run it again with --backfill-keys"]
        return [*map(str, found), *[line async for line in self._backfill(progress)]]

    async def _backfill(self, progress: Progress) -> AsyncIterator[str]:
        """What was done in each object, a line each."""
        await self._fields.learn()
        for kind in self.options.kinds:
            target = Target(kind, self.options.external_id)
            writer = Writer(self._client, target, None, self.log, ALLOW_SAVE)
            options = self.options
            phones = self._fields.of(kind, options.phone_fields)
            run = Backfill(self._client, options, kind, phones, writer, self._quota, progress)
            for line in await run.run():
                yield f"{kind}: {line}" if len(options.kinds) > 1 else line

    async def send_batch(self, deliveries: Sequence[relay.Delivery]) -> Sequence[Outcome]:
        batch = [BatchItem(delivery) for delivery in deliveries]
        slices = Slices()
        for each in batch:
            self._prepare(each)
            await slices.rest()
        words = await self._write_consent(batch)
        await self._write_contacts([each.contact for each in batch if each.contact])
        await self._write_new_consent(words)
        if self._members:
            await self._join(self._members, [each for each in batch if each.is_written()])
        if self._activities:
            await self._activities.write([each for each in batch if each.is_ready()])
        return [each.outcome() for each in batch]

    def _prepare(self, item: BatchItem) -> None:
        """Make the rows, or say at once how the delivery ends."""
        delivery = item.delivery
        if delivery.event.test and self.options.test_events == "skip":
            item.ended = relay.Delivered("a test event: not sent (test_events: skip)")
            item.is_skipped = True
            return
        if delivery.record is None:
            return
        if self.columns is None and delivery.last_word is None:
            item.ended = relay.Delivered(note=NO_WORD)
            return
        try:
            self._make_rows(item)
        except EvaluationError as error:
            item.ended = relay.Reject(f"options: {error}")
        except relay.Reject as outcome:
            item.ended = outcome

    def _make_rows(self, item: BatchItem) -> None:
        delivery = item.delivery
        options: SalesforceOptions = self.options
        if self.columns is None:  # a Task's person is the one whose consent is written
            if self._activities and self._activities.by_id:
                item.activity = self._activities.row(delivery, "")
            return
        item.key = key = options.key.render(delivery.event).strip()
        if not key:
            raise relay.Reject("the key is empty: see options.key")
        if self._activities:
            item.activity = self._activities.row(delivery, key)
        if delivery.stale and is_of_contact(options.key, delivery.event):
            if not options.activity:
                item.ended = relay.Delivered("stale: a later event of the contact is there")
            return
        assert delivery.record is not None
        fields = fields_of(delivery.record, options.external_id, options.only_if_empty)
        fields = without_consent(fields, options.consent)
        item.contact = Row(delivery, key, fields, kind=options.kinds[-1])

    async def _write_consent(self, batch: Sequence[BatchItem]) -> dict[BatchItem, ConsentWrite]:
        """First, and alone: nothing else that the deliveries bring may keep it from the org.

        Returns the words, with what has become of them so far.
        """
        if self._consent is None:
            return {}
        words = {
            each: ConsentWrite(each.delivery, self._key(each.delivery), kind=self.options.kinds[-1])
            for each in batch
            if each.delivery.last_word and not each.is_skipped
        }
        try:
            await self._consent.write(list(words.values()))
        except (httpx.HTTPError, relay.Retry, relay.Pause) as error:
            for word in words.values():
                word.outcome = outcome_of(error, 0.0)
        for each, word in words.items():
            each.consent, each.consented = word.outcome, word.person()
        return words

    async def _write_new_consent(self, words: Mapping[BatchItem, ConsentWrite]) -> None:
        """To the contacts that were written since, or to new records where there is none."""
        written = {each: word for each, word in words.items() if _is_taken(word)}
        if self._consent is None or not written:
            return
        await self._consent.write_to_new({word: each.contact for each, word in written.items()})
        for each, word in written.items():
            each.consent, each.consented = _or_that_of_person(word, each.contact), word.person()

    def _key(self, delivery: relay.Delivery) -> str:
        """Empty where the template fails: a record may have the number all the same."""
        try:
            key: str = self.options.key.render(delivery.event)
        except EvaluationError:
            return ""
        return key.strip()

    async def _write_contacts(self, rows: Sequence[Row]) -> None:
        if not rows:
            return
        await self._people.find(rows)
        waiting = list(rows)
        while waiting:  # it ends: a row is mended once in each way
            kinds = {row: row.kind for row in waiting}
            for kind, writer in self._contacts.items():
                await writer.write([row for row in waiting if kinds[row] == kind])
            waiting = [row for row in waiting if row.kind != kinds[row]]
            for row in waiting:
                row.fields = self._fields.kept(row.kind, row.fields)
        for row in rows:
            self._people.note(row)

    async def _join(self, members: CampaignMembers, batch: Sequence[BatchItem]) -> None:
        for each in batch:
            if each.contact and (person := each.reference()):
                try:
                    each.member = members.row(each.delivery, each.contact.kind, person)
                except EvaluationError as error:
                    each.ended = relay.Reject(f"options.campaign: {error}")
        rows = [each.member for each in batch if each.member]
        try:
            await members.write(rows)
        except (httpx.HTTPError, relay.Retry, relay.Pause) as error:
            for row in rows:
                row.outcome = outcome_of(error, 0.0)

    def _writer(
        self,
        options: Any,
        name: str,
        external_id: str,
        *,
        mapped: Sequence[str],
        use_match: bool = False,
        rules: tuple[Rule, ...] = (),
        kept: Sequence[str] = (),
    ) -> Writer:
        repair = Repair(options, self.log, use_match=use_match, forgets_ids=not rules, kept=kept)
        target = Target(name, external_id)
        headers = _headers(self.options)
        return Writer(self._client, target, repair, self.log, headers, rules, mapped)


def _is_taken(word: ConsentWrite) -> bool:
    """Whether nothing has kept the word from the records that were found, if any were."""
    return not isinstance(word.outcome, NotDelivered)


def _kept(activity: ActivityOptions, kinds: Sequence[str]) -> Sequence[str]:
    """The fields by which an activity names its person."""
    if isinstance(activity.contact, str):
        return [activity.contact]
    return [activity.reference(kind) for kind in kinds]


def _or_that_of_person(word: ConsentWrite, person: Row | None) -> Outcome | None:
    """The end of a word. One for which no record can be made waits for that of the event.

    The event's own record may have what a record for the word alone lacks.
    """
    end = person.outcome if person else None
    waits = isinstance(end, relay.Retry | relay.Pause) and not any(row.id for row in word.records)
    return end if waits and isinstance(word.outcome, relay.Reject) else word.outcome


def _headers(options: SalesforceOptions) -> Mapping[str, str]:
    """Duplicate rules and assignment rules ("Headers", REST guide)."""
    headers: dict[str, str] = {}
    if options.duplicates == "allow_save":
        headers |= ALLOW_SAVE
    if not options.assignment_rules:
        headers["Sforce-Auto-Assign"] = "FALSE"
    return headers


@relay.hookimpl
def register_sinks(register: Callable[[str, type[relay.Sink]], None]) -> None:
    register("salesforce", Salesforce)
