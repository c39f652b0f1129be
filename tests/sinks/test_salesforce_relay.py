"""The whole relay in front of the stub: what stands in the org is what came in, each once."""

import asyncio
import itertools
import json
import logging
from contextlib import asynccontextmanager

import pytest
from arrivals import arrival
from relaying import relaying
from salesforcesink import ACTIVITY, LOG, SIGN_IN, data_calls, mobile
from stubs.salesforce import SalesforceStub
from stubs.vendor import serving

MAP = {
    "FirstName": "{{ data.fields.Name }}",
    "MobilePhone": "{{ data.mobile }}",
    "SMS_Opt_Out__c": "{{ opted_out }}",
    "SMS_Keyword__c": "{{ data.message }}",
}


@asynccontextmanager
async def in_front(folder, stub, *, clock=None, sink=None, **options):
    """A relay in front of the stub, with these options and settings of its sink."""
    async with serving(stub.app) as url:
        given = {"login_url": url, **SIGN_IN, "defaults": {"LastName": "Unknown"}, **options}
        settings = {"plugin": "salesforce", "map": MAP, "options": given, **(sink or {})}
        async with relaying(folder, settings, clock=clock) as relay:
            yield relay


async def probed(relay, clock, delivered):
    """Let probes come until this many are delivered; one that was in flight may pause it anew."""
    async with asyncio.timeout(20):
        while (await relay.status())["delivered"] < delivered:
            await clock.advance(300)
            await asyncio.sleep(0.05)


@pytest.fixture
def stub():
    return SalesforceStub()


async def test_a_thousand_events_under_backlog_are_six_calls_at_the_most(tmp_path, stub):
    everybody = {**MAP, "LastName": "Doe"}
    async with in_front(tmp_path, stub, sink={"map": everybody}) as relay:
        await relay.command("sinks", "pause", "crm")
        await asyncio.gather(*(relay._running._store.add(arrival(each)) for each in range(1000)))
        await relay.command("sinks", "resume", "crm")
        await relay.reached(delivered=1000, pending=0, dead=0)
        calls = data_calls(stub)
    LOG.info("%d calls for 1,000 events", len(calls))
    assert len(calls) <= 6
    assert len(stub.records("Contact")) == 1000


@pytest.mark.parametrize(
    ("options", "new", "known"),
    [
        ({}, 17, 5),
        ({"activity": {"object": "Task"}}, 22, 10),
        ({"match": ["key", "phone"]}, 27, 5),
    ],
)
async def test_a_thousand_events_for_two_objects_are_few_calls(tmp_path, stub, options, new, known):
    """Two of them read which fields there are, once; each batch looks for its people in both."""
    both = {"objects": ["Contact", "Lead"], **options}
    everybody = {**MAP, "LastName": "Doe", "Company": "n/a"}
    async with in_front(tmp_path, stub, sink={"map": everybody}, **both) as relay:
        for turn in (1, 2):
            await relay.command("sinks", "pause", "crm")
            added = (relay._running._store.add(arrival(each)) for each in range(1000))
            await asyncio.gather(*added)
            before = len(data_calls(stub))
            await relay.command("sinks", "resume", "crm")
            await relay.reached(delivered=1000 * turn, pending=0, dead=0)
            calls = len(data_calls(stub)) - before
            LOG.info("%d calls for 1,000 events", calls)
            assert calls <= (new if turn == 1 else known)
    assert len(stub.records("Lead")) == 1000


async def test_with_faults_there_is_one_contact_and_one_activity_for_each_event(tmp_path, stub):
    async with in_front(tmp_path, stub, activity=ACTIVITY, sink={"batch": {"size": 10}}) as relay:
        for fault in ("drop_after_commit", "502", "lock_row", "drop"):
            stub.fault(fault, count=2)
        stub.fault("expired")
        ids = [await relay.send_many(range(20), f"text {turn}") for turn in range(3)]
        await relay.reached(delivered=60, pending=0, dead=0)
        contacts, activities = stub.records("Contact"), stub.records("SMS_Event__c")
    assert stub.fired.total() >= 8
    assert len({each["SMS_Key__c"] for each in contacts}) == len(contacts) == 20
    assert sorted(each["Event_Id__c"] for each in activities) == sorted(itertools.chain(*ids))
    assert {each["SMS_Keyword__c"] for each in contacts} == {"text 2"}


async def test_with_faults_each_person_is_one_contact_or_one_lead(tmp_path, stub):
    """Five are contacts before, five leads, one of which is converted between two rounds."""
    for number in range(10):
        kind, more = ("Contact", {}) if number < 5 else ("Lead", {"Company": "Acme"})
        stub.seed(kind, {"LastName": "Doe", "MobilePhone": mobile(number), **more})
    both = {
        "objects": ["Contact", "Lead"],
        "match": ["key", "phone"],
        "defaults": {"LastName": "Unknown", "Company": "n/a"},
        "activity": {"object": "Task"},
    }
    async with in_front(tmp_path, stub, sink={"batch": {"size": 10}}, **both) as relay:
        for fault in ("drop_after_commit", "502", "lock_row", "drop"):
            stub.fault(fault, count=2)
        stub.fault("expired")
        ids = [await relay.send_many(range(20), "text 0")]
        await relay.reached(delivered=20, pending=0, dead=0)
        converted = stub.records("Lead")[0]
        stub.convert(converted["Id"], stub.seed("Contact", {"LastName": "Doe"}))
        ids += [await relay.send_many(range(20), f"text {turn}") for turn in (1, 2)]
        await relay.reached(delivered=60, pending=0, dead=0)
    contacts, leads = stub.records("Contact"), stub.records("Lead")
    assert stub.fired.total() >= 8
    assert (len(contacts), len(leads)) == (6, 15)
    people = [*contacts, *(lead for lead in leads if not lead["IsConverted"])]
    assert len({each["SMS_Key__c"] for each in people}) == len(people) == 20
    assert {each["SMS_Keyword__c"] for each in people} == {"text 2"}
    tasks = [each["SMS_Event_Id__c"] for each in stub.records("Task")]
    assert sorted(tasks) == sorted(itertools.chain(*ids))


async def test_a_replay_leaves_not_one_record_more(tmp_path, stub):
    async with in_front(tmp_path, stub, activity=ACTIVITY) as relay:
        await relay.send_many(range(20), "first")
        await relay.send_many(range(20), "last")
        await relay.reached(delivered=40)
        before = stub.records("Contact")
        calls = len(stub.calls)
        await relay.command("replay", "--sink", "crm", "--since", "2020-01-01")
        await relay.reached(pending=0)
        async with asyncio.timeout(10):
            while len(stub.calls) == calls:
                await asyncio.sleep(0.01)
        await relay.reached(pending=0, dead=0)
    assert len(stub.records("SMS_Event__c")) == 40
    after = stub.records("Contact")
    assert [each["Id"] for each in after] == [each["Id"] for each in before]
    assert {each["SMS_Keyword__c"] for each in after} == {"last"}


async def test_a_wrong_secret_pauses_and_no_attempt_is_spent(tmp_path, stub):
    async with in_front(tmp_path, stub, client_secret="wrong") as relay:
        await relay.send_many(range(5))
        found = await relay.reached(state="paused")
        assert "client_secret" in found["reason"]
        assert found["pending"] == 5
        stub.client_secret = "wrong"
        await relay.command("sinks", "resume", "crm")
        await relay.reached(delivered=5, pending=0)
        events = await relay.asked("events", "list")
        shown = [await relay.asked("events", "show", event["id"]) for event in events]
    assert [each["deliveries"][0]["attempts"] for each in shown] == [1] * 5


async def test_the_end_of_the_quota_pauses_and_goes_on_by_itself(tmp_path, stub, clock):
    stub.api_used = stub.api_most
    async with in_front(tmp_path, stub, clock=clock) as relay:
        await relay.send_many(range(3))
        found = await relay.reached(state="paused")
        assert "API calls" in found["reason"]
        stub.api_used = 0
        await probed(relay, clock, delivered=3)


async def test_opt_outs_alone_pass_at_the_share_of_the_quota(tmp_path, stub):
    stub.api_used = 95_000
    async with in_front(tmp_path, stub) as relay:
        await relay.send(1)
        await relay.reached(delivered=1)  # its answer told of the quota
        await relay.send_many(range(2, 6))
        await relay.send(9, "STOP")
        found = await relay.reached(delivered=2, pending=4)
        stops = [each.get("SMS_Opt_Out__c") for each in stub.records("Contact")]
    assert stops == [False, True]
    assert found["dead"] == 0


async def test_a_bad_record_is_dead_and_comes_back_after_the_map_is_mended(tmp_path, stub):
    sink = {"map": {**MAP, "Email": "{{ data.message }}"}}
    async with in_front(tmp_path, stub, sink=sink, on_invalid="dead") as relay:
        await relay.send_many(range(10), "a@b.example")
        await relay.send(11, "no address")
        await relay.reached(delivered=10, dead=1)
        (dead,) = await relay.asked("dead", "list")
        assert "INVALID_EMAIL_ADDRESS" in json.dumps(dead)
        assert "no address" not in json.dumps(dead)
    async with in_front(tmp_path, stub) as relay:
        await relay.command("dead", "replay", "--all", "--sink", "crm")
        await relay.reached(delivered=11, dead=0)
    assert len(stub.records("Contact")) == 11


async def test_a_value_that_is_none_costs_the_value_and_is_said(tmp_path, stub):
    """What a filter of the map refuses, and what Salesforce does."""
    birthday = "{{ data.message | date(['%m/%d/%Y', '%d.%m.%Y'], '%Y-%m-%d') }}"
    sink = {
        "map": {**MAP, "SMS_Keyword__c": None, "Birthdate": birthday, "Email": "{{ data.message }}"}
    }
    async with in_front(tmp_path, stub, sink=sink) as relay:
        await relay.send(1, "yesterday")
        await relay.reached(delivered=1, dead=0)
        (event,) = await relay.asked("events", "list")
        found = await relay.asked("events", "show", event["id"])
        shown = await relay.command("events", "show", event["id"])
    (delivery,) = found["deliveries"]
    assert delivery["error"] is None
    assert delivery["note"] == (
        "without Birthdate: its value is not a date of the form '%m/%d/%Y' or '%d.%m.%Y';"
        " without Email: INVALID_EMAIL_ADDRESS"
    )
    assert "without Birthdate" in shown
    (contact,) = stub.records("Contact")
    assert contact.keys().isdisjoint({"Birthdate", "Email"})


async def test_blank_names_of_many_contacts_pause_nothing(tmp_path, stub):
    """What people type, or leave out, is no mistake in the settings."""
    sink = {"map": {**MAP, "LastName": "{{ data.message }}"}}
    async with in_front(tmp_path, stub, sink=sink, defaults={}) as relay:
        await relay.send_many(range(10), " ")
        await relay.send(11, "Doe")
        await relay.reached(delivered=1, dead=10, state="running")


async def test_a_mistake_that_hits_every_contact_pauses_and_kills_nothing(tmp_path, stub):
    async with in_front(tmp_path, stub, defaults={}) as relay:
        await relay.send_many(range(20))
        found = await relay.reached(state="paused", pending=20, dead=0)
        assert "LastName" in found["reason"]
        assert "defaults" in found["reason"]
    async with in_front(tmp_path, stub, defaults={"LastName": "Unknown"}) as relay:
        await relay.command("sinks", "resume", "crm")
        await relay.reached(delivered=20, dead=0)


async def test_a_field_that_is_not_there_pauses_until_it_is(tmp_path, stub, clock):
    made = stub.fields["Contact"].pop("SMS_Keyword__c")
    async with in_front(tmp_path, stub, clock=clock) as relay:
        await relay.send_many(range(3))
        found = await relay.reached(state="paused", pending=3)
        assert "SMS_Keyword__c" in found["reason"]
        stub.fields["Contact"]["SMS_Keyword__c"] = made
        await probed(relay, clock, delivered=3)
    assert len(stub.records("Contact")) == 3


async def test_no_number_of_a_contact_is_ever_logged(tmp_path, stub, caplog):
    caplog.set_level(logging.DEBUG)
    sink = {"map": {**MAP, "Email": "{{ data.mobile }}"}}
    options = {"match": ["key", "phone"], "on_invalid": "dead"}
    async with in_front(tmp_path, stub, sink=sink, **options) as relay:
        for fault in ("502", "drop", "empty"):
            stub.fault(fault)
        await relay.send_many(range(5))
        await relay.reached(dead=5)
        dead = await relay.command("dead", "list", "--json")
    assert "INVALID_EMAIL_ADDRESS" in dead
    assert "5550" not in caplog.text


async def test_check_and_setup_speak_to_the_org(tmp_path, stub):
    stub.seed("Contact", {"LastName": "Doe", "MobilePhone": "(212) 555-0001"})
    async with in_front(tmp_path, stub) as relay:
        assert "crm" in await relay.command("check", "--online")
        told = await relay.command("setup", "crm", "--backfill-keys")
        assert "1 people have got their key" in told
        await relay.send(1)
        await relay.reached(delivered=1)
    assert len(stub.records("Contact")) == 1
