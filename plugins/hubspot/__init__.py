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
      on_invalid: dead                       # of a value that HubSpot refuses: dead, drop, truncate
      unknown_property: pause                # or drop: go on without it
      defaults: {firstname: Unknown}         # only where HubSpot says that it is required
      only_if_empty: [lifecyclestage]        # set, but never overwritten
      test_events: skip                      # or send
      quota: {share: 0.9}                    # of the account's calls; opt-outs may use all

A record is written by `id_property`, so that whatever is sent twice, after a crash or a replay,
changes the same contact again. `relay check --online` names every property that is missing.
"""

from collections.abc import Callable, Sequence
from typing import Any

import relay
from relay.evaluation import EvaluationError
from relay.outcome import Outcome
from relay.quota import Quota

from .mender import Mender
from .options import Options
from .people import People
from .record import Record, properties
from .session import Session
from .writer import MOST, Writer

NO_MAP = "map is missing: it says which properties of HubSpot are to be written"


class HubSpot(relay.Sink):
    """Up to a hundred events in one request."""

    Options = Options
    max_batch = MOST

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
        self._people = People(self._session, self._writer, options, self.log)

    async def send_batch(self, deliveries: Sequence[relay.Delivery]) -> Sequence[Outcome]:
        if self.columns is None:
            raise relay.Pause(NO_MAP)
        outcomes: dict[str, Outcome] = {}
        records = []
        for delivery in deliveries:
            made = self._made(delivery)
            if isinstance(made, Record):
                records.append(made)
            else:
                outcomes[delivery.id] = made
        for together in rounds(records):
            await self._people.look(together)
            await self._writer.write(together)
            self._people.remember(together)
        outcomes |= {record.trace: record.outcome for record in records if record.outcome}
        return [outcomes[delivery.id] for delivery in deliveries]

    def _made(self, delivery: relay.Delivery) -> Record | Outcome:
        """The record to write, or why there is none."""
        if delivery.event.test and self.options.test_events == "skip":
            return relay.Delivered("a test event, not sent")
        try:
            key = self.options.key.render(delivery.event).strip()
        except EvaluationError as error:
            return relay.Reject(f"key: {error}")
        if not key:
            return relay.Reject("key: is empty for this event")
        if delivery.stale and key != delivery.id:  # with a record for each event, none is stale
            return relay.Delivered("stale: HubSpot has had later news of this contact")
        mobile = str(delivery.event.data.get("mobile") or "")
        return Record(delivery.id, key, properties(delivery.record), mobile)


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
