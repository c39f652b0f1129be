"""A Salesforce org and a HubSpot account on loopback, to try the CRM sinks by hand: `make stubs`.

Prints what goes into relay.yaml, and then each request as it comes. Other ports than 8091 and
8092: `PYTHONPATH=tests python -m stubs PORT PORT`. What was kept is gone at the end.
"""

import asyncio
import signal
import sys
from urllib.parse import urlsplit

from stubs.hubspot import HubSpotStub
from stubs.salesforce import SalesforceStub
from stubs.vendor import Stub, serving

PORTS = (8091, 8092)
SINKS = """\
sinks:
  salesforce:
    plugin: salesforce
    map:
      FirstName: "{{{{ data.fields.Name | first_name }}}}"
      LastName: "{{{{ data.fields.Name | last_name }}}}"
      MobilePhone: "{{{{ data.mobile }}}}"
    options:
      login_url: {salesforce}
      client_id: relay
      client_secret: stub-secret
      defaults: {{LastName: Unknown}}
      test_events: send
      activity:
        object: SMS_Event__c
        external_id: Event_Id__c
        contact: Contact__r
        map: {{Type__c: "{{{{ type }}}}", Message__c: "{{{{ data.message }}}}"}}
    allow_private: [127.0.0.0/8]
  hubspot:
    plugin: hubspot
    map:
      firstname: "{{{{ data.fields.Name | first_name }}}}"
      lastname: "{{{{ data.fields.Name | last_name }}}}"
      mobilephone: "{{{{ data.mobile }}}}"
    options:
      base_url: {hubspot}
      token: pat-na1-stub
      defaults: {{firstname: Unknown}}
      test_events: send
    allow_private: [127.0.0.0/8]
"""
BY_HAND = """\
# What they keep:  curl {salesforce}/_stub/records/Contact
#                  curl {hubspot}/_stub/records/contacts
# What goes wrong: curl -X POST '{salesforce}/_stub/fault/drop_after_commit?count=3'
#                  curl -X POST '{hubspot}/_stub/fault/503?count=3'
"""


async def main(ports: tuple[int, int]) -> None:
    salesforce = SalesforceStub("relay", "stub-secret")
    hubspot = HubSpotStub(token="pat-na1-stub")
    async with (
        serving(salesforce.app, ports[0]) as salesforce_url,
        serving(hubspot.app, ports[1]) as hubspot_url,
        asyncio.TaskGroup() as group,
    ):
        urls = {"salesforce": salesforce_url, "hubspot": hubspot_url}
        print(SINKS.format(**urls), BY_HAND.format(**urls), sep="\n", flush=True)
        tellers = [
            group.create_task(tell(urlsplit(urls[name]).port, stub))
            for name, stub in {"salesforce": salesforce, "hubspot": hubspot}.items()
        ]
        await stopped()
        for teller in tellers:
            teller.cancel()


async def tell(port: int | None, stub: Stub) -> None:
    """One line for each request, in their order."""
    told = 0
    while True:
        await stub.called(told + 1)
        for call in stub.calls[told:]:
            print(f":{port} {call.method} {call.path} {call.status or 'no answer'}", flush=True)
            told += 1


async def stopped() -> None:
    """Wait for Ctrl-C or SIGTERM."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()


if __name__ == "__main__":
    first, second = map(int, sys.argv[1:3]) if len(sys.argv) > 1 else PORTS
    try:
        asyncio.run(main((first, second)))
    except OSError as error:
        sys.exit(f"the stubs cannot start: {error}")
