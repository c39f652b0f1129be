"""A connection that breaks under a batch says little of the CRM: opt-outs go on in seconds."""

import asyncio
import time

import pytest
from crmrelay import SECRET, relaying
from hubspotsink import TOKEN
from stubs.hubspot import HubSpotStub
from stubs.salesforce import SalesforceStub
from stubs.vendor import serving

SECONDS = 30
"""Half of the breaker's cooldown; a retry waits for 5 at the most."""
CONTACTS = 20
OPTED_OUT = {
    "salesforce": ("Contact", "SMS_Opt_Out__c", True),
    "hubspot": ("contacts", "sms_opt_out", "true"),
}
# As users have it: with the default retries and breaker.
COMMON = {"batch": {"wait": "300ms"}, "retry": {}, "concurrency": 1}


@pytest.fixture(params=["salesforce", "hubspot"])
async def crm(request):
    """The stub, and the sink before it."""
    if request.param == "salesforce":
        stub = SalesforceStub()
        map_ = {"LastName": "Doe", "MobilePhone": "{{ data.mobile }}"}
        options = SECRET | {"consent": {"field": "SMS_Opt_Out__c"}}
        where = "login_url"
    else:
        stub = HubSpotStub()
        map_ = {"firstname": "Ann", "mobilephone": "{{ data.mobile }}"}
        options = {"token": TOKEN, "consent": {"field": "sms_opt_out"}}
        where = "base_url"
    async with serving(stub.app) as url:
        sink = {"plugin": request.param, "map": map_, "options": options | {where: url}} | COMMON
        yield stub, sink, OPTED_OUT[request.param]


def opted_out(stub, shown):
    name, field, value = shown
    return sum(record.get(field) == value for record in stub.records(name))


async def within_seconds(condition):
    begun = time.monotonic()
    async with asyncio.timeout(SECONDS):
        while not condition():
            await asyncio.sleep(0.05)
    return time.monotonic() - begun


async def test_an_opt_out_after_a_lost_batch_is_there_at_once(tmp_path, crm):
    stub, sink, shown = crm
    stub.fault("drop")
    async with relaying(tmp_path, {"crm": sink}) as relay:
        await asyncio.gather(*(relay.send(number) for number in range(CONTACTS)))
        await within_seconds(lambda: stub.fired["drop"] == 1)
        await relay.send(50, msg="STOP")
        took = await within_seconds(lambda: opted_out(stub, shown) == 1)
        assert (await relay.states())["crm"].state == "running"
        await relay.delivered(CONTACTS + 1)
    print(f"an opt-out of another after a lost batch: {took:.1f} s")


async def test_opt_outs_of_a_lost_batch_are_there_in_seconds(tmp_path, crm):
    stub, sink, shown = crm
    stub.fault("drop")
    async with relaying(tmp_path, {"crm": sink}) as relay:
        await asyncio.gather(*(relay.send(number, msg="STOP") for number in range(CONTACTS)))
        took = await within_seconds(lambda: opted_out(stub, shown) == CONTACTS)
        assert stub.fired["drop"] == 1
        assert (await relay.states())["crm"].state == "running"
    print(f"{CONTACTS} opt-outs of a lost batch: {took:.1f} s")


async def test_where_each_counts_they_wait_for_the_breaker(tmp_path, crm):
    """A control: one failure is enough here."""
    stub, sink, shown = crm
    stub.fault("drop")
    sink = sink | {"breaker": {"failures": 1}}
    async with relaying(tmp_path, {"crm": sink}) as relay:
        await asyncio.gather(*(relay.send(number) for number in range(CONTACTS)))
        await within_seconds(lambda: stub.fired["drop"] == 1)
        await relay.send(50, msg="STOP")
        await asyncio.sleep(1)
        assert (await relay.states())["crm"].state == "parked"
        assert opted_out(stub, shown) == 0
