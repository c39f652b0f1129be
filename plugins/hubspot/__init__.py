"""Keep one HubSpot contact for each person, up to date with what they send.

sinks:
  crm:
    plugin: hubspot
    map:                                     # HubSpot's internal names of properties
      firstname: "{{ data.fields.Name | first_name }}"
      mobilephone: "{{ data.mobile }}"
      sms_opt_out: "{{ opted_out }}"
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
      on_invalid: dead                       # drop: leave a refused value out; truncate: cut what
                                             # is too long, leave out what is wrong otherwise
      unknown_property: pause                # or drop: go on without it
      defaults: {firstname: Unknown}         # only where HubSpot says that it is required
      only_if_empty: [lifecyclestage]        # set, but never overwritten
      test_events: skip                      # or send
      quota: {share: 0.9}                    # of the account's calls; opt-outs may use all
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
          id_property: null                  # a unique property of communications: see below
        on_invalid: dead                     # these two as above, for the activity
        defaults: {}

The key needs the scopes crm.objects.contacts.read and .write, and crm.schemas.contacts.write for
`relay setup`; an activity crm.objects.custom.write or analytics.behavioral_events.send as well.

A record is written by `id_property`, so that whatever is sent twice, after a crash or a replay,
changes the same contact again. `relay check --online` names every property that is missing.

A hundred records go in one call. `only_if_empty` makes it two; `match` two more for people who
were not seen before, in HubSpot's search among others, which knows a phone number some moments
after it was written. Where several people have a number, none of them is taken for the sender.

An activity is written once its contact is, and once an event, by the event's id: a call more, or
two. Only communications without an `id_property` are written at least once: after a connection
that broke there may be two.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import relay
from relay.outcome import Outcome
from relay.quota import Quota
from relay.sink import Progress, in_silence
from relay.templates.evaluation import EvaluationError

from . import activity
from .activity import Activity
from .backfill import Backfill
from .entry import Entry
from .inspection import Inspection
from .mender import Mender
from .options import Options
from .people import People
from .preparation import Preparation
from .record import Record, properties
from .session import Session
from .writer import MOST, Writer

NO_MAP = "map is missing: it says which properties of HubSpot are to be written"
STALE = "stale: HubSpot has had later news of this contact"
GONE = "its contact is no longer in HubSpot, and it is too old to make it anew"


class HubSpot(relay.Sink):
    """Up to a hundred events in one request."""

    Options = Options
    max_batch = MOST
    blank = "omit"

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        options: Options = self.options
        self.quota = Quota(share=options.quota.share)
        self._session = Session(self.http, options, self.quota, self.log)
        mender = Mender(
            options.id_property,
            self.log,
            options.on_invalid,
            drop_unknown=options.unknown_property == "drop",
            defaults=options.defaults,
            adopts="email" in options.match,
        )
        self._writer = Writer(self._session, options.object, mender, options.only_if_empty)
        self._inspection = Inspection(self._session, self.name, options, self.columns)
        self._activity = activity.make(self._session, options, self.log)
        self._people = People(self._session, self._writer, options, self.log)

    async def check(self) -> list[str]:
        found = [] if self.columns else [NO_MAP]
        return found + await self._inspection.problems()

    async def setup(self, *, backfill: bool = False, progress: Progress = in_silence) -> list[str]:
        made = await Preparation(self._session, self._inspection, self.options, self.columns).run()
        if not backfill:
            return made
        return made + await Backfill(self._session, self._writer, self.options).run(progress)

    async def send_batch(self, deliveries: Sequence[relay.Delivery]) -> Sequence[Outcome]:
        if self.columns is None:
            raise relay.Pause(NO_MAP)
        sent = [self._begun(delivery) for delivery in deliveries]
        await self._write([each.record for each in sent if each.record and not each.is_stale])
        await self._find([each.record for each in sent if each.record and each.is_stale])
        if self._activity:
            await self._log_events(self._activity, [each for each in sent if each.contact])
        return [each.end() for each in sent]

    def _begun(self, delivery: relay.Delivery) -> "Sent":
        """With the record to write, or with the reason why there is none."""
        if delivery.event.test and self.options.test_events == "skip":
            return Sent(delivery, outcome=relay.Delivered("a test event, not sent"))
        try:
            key = self.options.key.render(delivery.event).strip()
        except EvaluationError as error:
            return Sent(delivery, outcome=relay.Reject(f"key: {error}"))
        if not key:
            return Sent(delivery, outcome=relay.Reject("key: is empty for this event"))
        stale = delivery.stale and key != delivery.id  # with a record for each event, none is
        if stale and not self._activity:
            return Sent(delivery, outcome=relay.Delivered(STALE))
        mobile = str(delivery.event.data.get("mobile") or "")
        values = cleared_only_where_allowed(delivery.record, self.options)
        record = Record(delivery.id, key, properties(values), mobile)
        return Sent(delivery, record, is_stale=stale)

    async def _write(self, records: Sequence[Record]) -> None:
        """The contacts; those with the same key one after the other."""
        for together in rounds(records):
            await self._people.look(together)
            await self._writer.write(together)
            self._people.remember(together)

    async def _find(self, records: Sequence[Record]) -> None:
        """The contacts of events that are too old to change them."""
        ids = await self._people.ids(records)
        for record in records:
            found = ids.get(record.key)
            end = relay.Delivered(found) if found else relay.Reject(GONE)
            record.outcome = record.outcome or end

    async def _log_events(self, timeline: Activity, sent: Sequence["Sent"]) -> None:
        """What stands on the timelines of contacts that are written."""
        entries = [(each, Entry(each.delivery, each.contact or "")) for each in sent]
        await timeline.write([entry for _, entry in entries])
        for each, entry in entries:
            if not isinstance(entry.outcome, relay.Delivered):
                each.outcome = entry.outcome


@dataclass(slots=True)
class Sent:
    """A delivery on its way: with the record to write, or with its end."""

    delivery: relay.Delivery
    record: Record | None = None
    outcome: Outcome | None = None
    is_stale: bool = False

    @property
    def contact(self) -> str | None:
        """The id of the contact, once that is known."""
        done = self.record.outcome if self.record else None
        return done.reference if isinstance(done, relay.Delivered) else None

    def end(self) -> Outcome:
        """What became of it: of its activity, if that failed, else of its contact."""
        outcome = self.outcome or (self.record and self.record.outcome)
        return outcome or relay.Retry("nothing was learned of it")


def cleared_only_where_allowed(record: dict[str, Any], options: Options) -> dict[str, Any]:
    """The record without nulls for the key, and for what is only filled where it is empty."""
    kept = {options.id_property, *options.only_if_empty}
    return {name: each for name, each in record.items() if each is not None or name not in kept}


def rounds(records: Sequence[Record]) -> list[list[Record]]:
    """Groups in which no key stands twice, to be written one after the other."""
    groups: list[dict[str, Record]] = []
    for record in records:
        for group in groups:
            if record.key not in group:
                group[record.key] = record
                break
        else:
            groups.append({record.key: record})
    return [list(group.values()) for group in groups]


@relay.hookimpl
def register_sinks(register: Callable[[str, type[relay.Sink]], None]) -> None:
    register("hubspot", HubSpot)
