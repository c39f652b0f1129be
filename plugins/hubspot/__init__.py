"""Keep one HubSpot contact for each person, up to date with what they send.

sinks:
  crm:
    plugin: hubspot
    map:                                     # HubSpot's internal names of properties
      firstname: "{{ data.fields.Name | first_name }}"
      mobilephone: "{{ data.mobile }}"
    options:
      token: ${HUBSPOT_TOKEN}                # a service key or a private app's token; or:
      # oauth: {client_id: …, client_secret: …, refresh_token: …}
      base_url: https://api.hubapi.com
      api_version: "2026-09"                 # or v3
      object: contacts
      id_property: sms_key                   # made unique; `relay setup crm` makes it
      key: "{{ data.mobile | digits }}"      # the value of id_property
      match: [key]                           # then phone, email: finds people who have no key yet
      country: US                            # of phone numbers in HubSpot that do not say theirs
      on_invalid: drop                       # an invalid value is left out; truncate: what is too
                                             # long is cut; both are logged, and shown by `relay
                                             # events show`; dead: the delivery is dead
      on_conflict: separate                  # an e-mail address that another contact has is left
                                             # out; adopt: it is that contact, unless that has a
                                             # key (the default where match names email); dead
      unknown_property: pause                # or drop: go on without it
      defaults: {firstname: Unknown}         # only where HubSpot says that it is required
      only_if_empty: [lifecyclestage]        # set, but never overwritten
      overwrite_phones: false                # true: with phone in match, map writes the numbers of
                                             # people who are there, too
      lists:                                 # none by default: the ILS list IDs of static lists,
        - "{{ {'JOIN': 17}[data.keyword] }}" # to which each contact is added
      test_events: skip                      # or send
      quota: {share: 0.9}                    # of the account's calls; opt-outs may use all
      consent:                               # none by default: see below
        field: sms_opt_out                   # a property, or a list of them; then what they hold
        opted_out: true
        opted_in: false
        fields: {}                           # {sms_status: {opted_out: Stopped, opted_in: Active}}
        when: data.consent == 'opt_out'      # narrows it
        create: true                         # false: no contact is made where none has the number
      activity:                              # none by default; one of the three:
        event:                               # a custom event (an Enterprise account)
          name: pe123_sms
          map: {message: "{{ data.message }}"}
        object:                              # a custom object (an Enterprise account)
          type: 2-123
          id_property: event_id              # made unique; `relay setup crm` makes it
          association: 17                    # the number of its association with contacts, and
          category: USER_DEFINED             # of what kind that is: `relay check --online` tells
          map: {message: "{{ data.message }}"}
        communication:                       # HubSpot's log of text messages
          body: "{{ data.keyword }}: {{ data.message }}"
          id_property: sms_event_id          # made unique; `relay setup crm` makes it: see below
        on_invalid: drop                     # these two as above, for the activity
        defaults: {}

The key needs the scopes crm.objects.contacts.read and .write, and crm.schemas.contacts.write for
`relay setup`; an activity crm.objects.custom.read and .write or analytics.behavioral_events.send as
well, and lists crm.lists.read and .write. `relay check --online` names those that are missing.

Sinks with the same token, or the same `oauth`, share the account's limits: its calls of a day and
of ten seconds, and five searches a second. What was used is known after a restart, and so is the
refresh token that HubSpot gave last: the store keeps it.

A record is written by `id_property`, so that whatever is sent twice, after a crash or a replay,
changes the same contact again. `relay check --online` names every property that is missing, and
`relay setup` makes it: a checkbox for consent, text for others. One whose name is much like that
of another is made only by `relay setup --create NAME`.

A hundred records go in one call. `only_if_empty` makes it two; `match` two more for people who
were not seen before, in HubSpot's search among others, which knows a phone number some moments
after it was written. Where several people have a number, none of them is taken for the sender.

With `consent` the sink gets every event that carries a word of consent, whatever its `when` says.
The last word of the number is written alone, with no other property beside it, to each contact
that has the number as its key or in `phone` or `mobilephone`, before anything else of the event:
a call and one search to find them, and one to write them, for a hundred words. A contact is made,
with the number, where there is none: one call more. `map` does not write these properties, and is
not needed. Two contacts of one number are both opted out. Objects of your own are found by their
key alone, unless `match` names phone.

With `match: [key, phone]` a person who has the number already, in `phone` or `mobilephone`, keeps
both properties as they are.

A contact is added to the lists once it is written: a call more for each list. A list that is not
there, or that HubSpot fills by itself, is left out, and the delivery says so. A template that gives
nothing chooses no list.

An activity is written once its contact is, and once an event, by the event's id: a call more, or
two. Communications need a property for that, which `relay setup` makes; it is used within the
hour. In an account without it, and with `id_property: null`, they are written at least once, with
one call: after a connection that broke there may be two. Where relay.yaml names the property, it
has to be there.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import relay
from relay import EvaluationError, Outcome, Progress, Slices, no_progress
from relay.crm import distinct_groups, number_of, without_consent

from .activities import Activity, TimelineEntry, make_activity
from .backfill import Backfill
from .client import Client
from .consent import ConsentWrite, ConsentWriter
from .contacts import ContactFinder, Lists, PhoneSearch
from .options import Options
from .records import BatchItem, Record, properties
from .setup import AccountCheck, PropertySetup
from .upsert import MOST, Repair, Writer

NO_MAP = "map is missing: it says which properties of HubSpot are to be written"
STALE = "stale: HubSpot has had later news of this contact"
NOTHING = relay.Delivered("without a map nothing but consent is written")
GONE = "its contact is no longer in HubSpot, and it is too old to make it anew"


class HubSpot(relay.Sink):
    """Up to a hundred events in one request."""

    Options = Options
    max_batch = MOST
    blank = "omit"

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        options: Options = self.options
        account = self.account(*options.account())
        self.quota = account.quota(share=options.quota.share)
        self._client = Client(self.http, options, self.quota, account)
        repair = Repair(
            options.id_property,
            self.log,
            options.on_invalid,
            drop_unknown=options.unknown_property == "drop",
            defaults=options.defaults,
            on_conflict=options.conflict,
            mapped=frozenset(self.columns or ()),
        )
        self._writer = Writer(self._client, options.object, repair, options.only_if_empty)
        self._lists = Lists(self._client, options, self.log)
        self._check = AccountCheck(self._client, self.name, options, self.columns, self._lists)
        self._activity = make_activity(self._client, options, self.log)
        search = PhoneSearch(self._client, options, account)
        self._people = ContactFinder(search, self._writer, options, self.log)
        self._consent = (
            ConsentWriter(self._client, search, options, self.columns, self.log)
            if options.consent
            else None
        )

    @classmethod
    def drops_invalid(cls, options: Any) -> bool:
        return bool(options.on_invalid != "dead")

    @classmethod
    def takes_consent(cls, options: Any, event: relay.Event) -> bool:
        return options.consent is not None and bool(options.consent.takes(event))

    def _lacks_map(self) -> bool:
        """Whether there is nothing to write: consent needs no map."""
        return self.columns is None and self._consent is None

    async def check(self) -> list[str]:
        found = [NO_MAP] if self._lacks_map() else []
        return found + await self._check.problems(self.constants)

    async def setup(
        self,
        *,
        backfill: bool = False,
        progress: Progress = no_progress,
        create: Collection[str] = (),
    ) -> list[str]:
        made = await PropertySetup(
            self._client, self._check, self.options, self.columns, create
        ).run()
        if not backfill:
            return made
        return made + await Backfill(self._client, self._writer, self.options).run(progress)

    async def send_batch(self, deliveries: Sequence[relay.Delivery]) -> Sequence[Outcome]:
        if self._lacks_map():
            raise relay.Pause(NO_MAP)
        sent, slices = [], Slices()
        for delivery in deliveries:
            sent.append(self._begun(delivery))
            await slices.rest()
        words = await self._write_consent(sent)
        await self._write([each.record for each in sent if each.record and not each.is_stale])
        await self._find([each.record for each in sent if each.record and each.is_stale])
        await self._write_consent_to_made(words)
        await self._lists.add([each for each in sent if each.contact and not each.is_stale])
        if self._activity:
            written = [each for each in sent if each.contact and each.outcome is None]
            await self._log_events(self._activity, written)
        return [each.end() for each in sent]

    def _begun(self, delivery: relay.Delivery) -> BatchItem:
        """With the record to write, or with the reason why there is none."""
        if delivery.event.test and self.options.test_events == "skip":
            end = relay.Delivered("a test event, not sent")
            return BatchItem(delivery, outcome=end, is_skipped=True)
        if self.columns is None or delivery.record is None:
            return BatchItem(delivery, outcome=None if delivery.last_word else NOTHING)
        try:
            key = self.options.key.render(delivery.event).strip()
        except EvaluationError as error:
            return BatchItem(delivery, outcome=relay.Reject(f"key: {error}"))
        if not key:
            return BatchItem(delivery, outcome=relay.Reject("key: is empty for this event"))
        stale = delivery.stale and key != delivery.id  # with a record for each event, none is
        if stale and not self._activity:
            return BatchItem(delivery, outcome=relay.Delivered(STALE))
        values = without_consent(delivery.record, self.options.consent)
        values = cleared_only_where_allowed(values, self.options)
        record = Record(delivery.id, key, properties(values), number_of(delivery.event))
        return BatchItem(delivery, record, is_stale=stale)

    async def _write_consent(self, sent: Sequence[BatchItem]) -> dict[BatchItem, ConsentWrite]:
        """First, and alone: nothing else that the deliveries bring may keep it from HubSpot."""
        words = {
            each: ConsentWrite(each.delivery, self._key(each.delivery))
            for each in sent
            if each.delivery.last_word and not each.is_skipped
        }
        if self._consent is not None and words:
            await self._consent.write(list(words.values()))
        return words

    async def _write_consent_to_made(self, words: Mapping[BatchItem, ConsentWrite]) -> None:
        """To the contacts that were made since, else to contacts made for it."""
        if self._consent is not None and words:
            records = {word: each.record for each, word in words.items()}
            await self._consent.write_to_made(records)
        for each, word in words.items():
            each.consent = word.outcome

    def _key(self, delivery: relay.Delivery) -> str:
        """Empty where the template fails: a contact may have the number all the same."""
        try:
            key: str = self.options.key.render(delivery.event)
        except EvaluationError:
            return ""
        return key.strip()

    async def _write(self, records: Sequence[Record]) -> None:
        """The contacts; those with the same key one after the other."""
        for together in distinct_groups(records, lambda record: record.key):
            await self._people.look(together)
            await self._writer.write(together)
            await self._writer.write(self._people.returned(together))
            self._people.remember(together)

    async def _find(self, records: Sequence[Record]) -> None:
        """The contacts of events that are too old to change them."""
        ids = await self._people.ids(records)
        for record in records:
            found = ids.get(record.key)
            end = relay.Delivered(found) if found else relay.Reject(GONE)
            record.outcome = record.outcome or end

    async def _log_events(self, timeline: Activity, sent: Sequence["BatchItem"]) -> None:
        """Write the timeline entries of the contacts that were written."""
        entries = [(each, TimelineEntry(each.delivery, each.contact or "")) for each in sent]
        await timeline.write([entry for _, entry in entries])
        for each, entry in entries:
            each.notes += [f"activity {note}" for note in entry.notes]
            if not isinstance(entry.outcome, relay.Delivered):
                each.outcome = entry.outcome


def cleared_only_where_allowed(record: dict[str, Any], options: Options) -> dict[str, Any]:
    """The record without nulls for the key, and for what is only filled where it is empty."""
    kept = {options.id_property, *options.only_if_empty}
    return {name: each for name, each in record.items() if each is not None or name not in kept}


@relay.hookimpl
def register_sinks(register: Callable[[str, type[relay.Sink]], None]) -> None:
    register("hubspot", HubSpot)
