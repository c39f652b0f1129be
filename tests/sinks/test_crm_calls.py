"""How many calls the CRM sinks make: for words of consent, and for records without any."""

import dataclasses
from contextlib import asynccontextmanager

import hubspotsink
import pytest
import salesforcesink
from stubs.hubspot import HubSpotStub
from stubs.vendor import serving

NUMBERS = range(100)


@asynccontextmanager
async def salesforce(**options):
    """A sink that takes consent, with its stub and the module that makes its deliveries."""
    consent, defaults = {"field": "SMS_Opt_Out__c"}, {"LastName": "Unknown"}
    given = {"consent": consent, "defaults": defaults} | options
    async with salesforcesink.connected(**given) as (stub, sink):
        yield stub, sink, salesforcesink


@asynccontextmanager
async def hubspot(**options):
    stub = HubSpotStub()
    given = {"consent": {"field": "sms_opt_out"}} | options
    async with serving(stub.app) as url, hubspotsink.opened(url, **given) as sink:
        yield stub, sink, hubspotsink


ACTIVITIES = {
    salesforce: salesforcesink.ACTIVITY,
    hubspot: {
        "object": {
            "type": "2-123",
            "id_property": "event_id",
            "association": 17,
            "map": {"message": "{{ data.message }}"},
        }
    },
}
each_crm = pytest.mark.parametrize("crm", [salesforce, hubspot], ids=lambda crm: crm.__name__)


def seed(stub, mobile):
    """Somebody who is there without a key."""
    if isinstance(stub, HubSpotStub):
        stub.seed("contacts", {"lastname": "Doe", "mobilephone": mobile})
    else:
        stub.seed("Contact", {"LastName": "Doe", "MobilePhone": mobile})


async def calls(crm, sent, batch, *, people=(), **options):
    """How many calls it takes to send these, of whom some are there; all are delivered."""
    async with crm(**options) as (stub, sink, module):
        for number in people:
            seed(stub, module.mobile(number))
        deliveries = sent(module)
        for start in range(0, len(deliveries), batch):
            outcomes = await sink.send_batch(deliveries[start : start + batch])
            assert {type(each).__name__ for each in outcomes} == {"Delivered"}
        return len(stub.calls)


def words(module):
    """A hundred words and nothing else."""
    return [dataclasses.replace(each, record=None) for each in words_with_records(module)]


def words_with_records(module):
    return [dataclasses.replace(module.delivery(number), last_word="opt_out") for number in NUMBERS]


def a_thousand_records(module):
    return [module.delivery(number) for number in range(1000)]


@each_crm
async def test_what_a_thousand_contacts_without_words_cost(crm):
    """The option for consent costs nothing. A sign-in counts."""
    batch = {"salesforce": 200, "hubspot": 100}[crm.__name__]
    plain = await calls(crm, a_thousand_records, batch)
    logged = await calls(crm, a_thousand_records, batch, activity=ACTIVITIES[crm])
    print(f"\n{crm.__name__}: {plain} calls for 1,000 contacts, {logged} with activities")
    assert plain <= {"salesforce": 6, "hubspot": 11}[crm.__name__]
    assert logged <= {"salesforce": 11, "hubspot": 31}[crm.__name__]


@each_crm
async def test_what_a_hundred_opt_outs_cost(crm):
    """In one batch; Salesforce is signed in to as well."""
    made = {
        "of people by phone": await calls(crm, words, 100, people=NUMBERS),
        "of nobody": await calls(crm, words, 100),
        "of people by phone, beside records": await calls(
            crm, words_with_records, 100, people=NUMBERS, match=["key", "phone"]
        ),
    }
    for whose, count in made.items():
        print(f"\n{crm.__name__}: {count} calls for 100 opt-outs {whose}")
    expected = {"salesforce": [4, 5, 7], "hubspot": [3, 3, 6]}[crm.__name__]
    assert list(made.values()) == expected
