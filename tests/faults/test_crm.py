"""The CRM sinks in a storm: each contact once and up to date, each event once, nothing missing."""

import asyncio
import random
import sys
import time
from collections import Counter

import orjson
import pytest
from crmbrisk import BriskClock
from crmexamples import TOLD, examples
from crmpeople import PeopleStorm, typed
from crmstorm import Callback, storming
from crmvendors import SLOW, HubSpot, HubSpotEvents, HubSpotLog, Salesforce
from listening import QUERIES, answers
from workers import eventually

STORMS = 4
each_vendor = pytest.mark.parametrize("vendor", [Salesforce, HubSpot], ids=lambda each: each.name)


# the examples


@each_vendor
async def test_the_six_examples_are_one_contact_and_six_activities(tmp_path, vendor):
    vendor = vendor()
    six = examples(vendor)
    settings = {"map": six.map, "batch": {}}
    async with storming(tmp_path, vendor, speed=1, settings=settings, **six.options) as storm:
        await storm.relay.start()
        first = [await as_printed(storm, query) for query in QUERIES]
        await storm.relay.delivered()
        assert six.contacts() == [six.contact]
        assert six.activities() == dict(zip(first, TOLD, strict=True))
        before = six.everything()
        calls = len(vendor.data_calls())

        made = await command(storm, "replay", "--sink", "crm", "--since", "1h", "--json")
        assert made["made"] == 6
        await storm.relay.delivered()
        assert len(vendor.data_calls()) > calls
        assert six.everything() == before

        again = [await as_printed(storm, query) for query in QUERIES]
        assert again[-1] == first[-1], "its message id proves a repeat"
        await storm.relay.delivered()
        assert six.contacts() == [six.contact | {six.keyword: "SOMEKEYWORD"}]
        assert six.activities().keys() == {*first, *again}
        assert len({*first, *again}) == 11


async def as_printed(storm, query):
    """The id of the event that became of it. Raw spaces and all, as over a socket."""
    reader, writer = await asyncio.open_connection("127.0.0.1", storm.relay.port)
    writer.write(
        b"GET /callbacks/sumotext?%s HTTP/1.1\r\nHost: relay\r\nConnection: close\r\n\r\n" % query
    )
    (answer,) = answers(await reader.read())
    writer.close()
    assert answer.status == 200
    return answer.json()["id"]


async def command(storm, *arguments):
    """What a command of the relay prints."""
    relay = storm.relay
    process = await asyncio.create_subprocess_exec(
        *[sys.executable, "-m", "relay.cli", *arguments, "--config", str(relay.config)],
        stdout=asyncio.subprocess.PIPE,
        env=relay.environment,
    )
    printed, _ = await process.communicate()
    assert process.returncode == 0
    return orjson.loads(printed)


# a storm


@each_vendor
async def test_after_a_storm_each_contact_and_event_is_there_once(tmp_path, vendor):
    vendor = vendor(share=0.2, slow=0.02, seed=1)
    async with storming(tmp_path, vendor, settings={"batch": {"size": 10}}, seed=1) as storm:
        await storm.rage(events=600, contacts=150, kills=2, patience=100)
        verdict = await storm.verdict()
    print(verdict)
    verdict.sound()
    assert verdict.counts["dead"] >= 5
    assert vendor.fired.keys() >= vendor.kinds()


async def test_after_a_storm_each_custom_event_is_there_once(tmp_path):
    vendor = HubSpotEvents(share=0.2, seed=3)
    vendor.stub.fault("drop_after_commit", on="/events/")
    vendor.stub.fault("empty", on="/events/")
    async with storming(tmp_path, vendor, settings={"batch": {"size": 10}}, seed=3) as storm:
        await storm.rage(events=300, contacts=75, kills=1, revoke=False, patience=100)
        verdict = await storm.verdict()
    print(verdict)
    verdict.sound()
    assert vendor.stub.lost["uuid"], "none came twice"


async def test_after_a_storm_each_communication_is_there_once_and_each_contact_in_its_list(
    tmp_path,
):
    vendor = HubSpotLog(share=0.12, seed=4)
    for where in ("communications/", "communications/contacts/", "/memberships/"):
        vendor.stub.fault("drop_after_commit", on=where)
    async with storming(tmp_path, vendor, settings={"batch": {"size": 10}}, seed=4) as storm:
        await storm.rage(events=200, contacts=50, kills=2, revoke=False, patience=100)
        verdict = await storm.verdict()
    print(verdict)
    verdict.sound()
    assert storm.kills == 2
    assert vendor.stub.fired["drop_after_commit"] >= 3
    assert sorted(vendor.members()) == sorted(row["id"] for row in vendor.stub.records("contacts"))


async def test_without_a_property_for_it_a_storm_doubles_communications(tmp_path):
    """The control: nothing but the communications is there twice."""
    vendor = HubSpotLog(share=0.12, seed=4, unique=False)
    vendor.stub.fault("drop_after_commit", on="communications/batch/create")
    async with storming(tmp_path, vendor, settings={"batch": {"size": 10}}, seed=4) as storm:
        await storm.rage(events=200, contacts=50, kills=2, revoke=False, patience=100)
        verdict = await storm.verdict()
    print(verdict)
    assert verdict.faults.pop("activities twice")
    verdict.sound()


@each_vendor
async def test_in_a_storm_blank_misspelt_and_shared_values_cost_nobody_theirs(tmp_path, vendor):
    await weather_people(tmp_path, vendor(share=0.2, slow=0.02, seed=5), 5, 400, 100, kills=2)


@pytest.mark.faults
@pytest.mark.timeout(3600)
@each_vendor
async def test_in_a_long_storm_blank_misspelt_and_shared_values_cost_nobody_theirs(
    tmp_path, vendor
):
    seed = random.randrange(2**32)
    print(f"\nseed {seed}")
    vendor = vendor(share=0.15, seed=seed)
    await weather_people(tmp_path, vendor, seed, 20_000, 5_000, kills=8, size=50, patience=3000)
    assert vendor.fired.keys() >= vendor.kinds()


async def weather_people(folder, vendor, seed, events, contacts, *, kills, size=10, patience=100):
    """Each person once with the last good values, each word of consent right everywhere."""
    sink = typed(vendor)
    sink["settings"] |= {"batch": {"size": size}}
    async with storming(folder, vendor, seed=seed, kind=PeopleStorm, **sink) as storm:
        storm.seed_shared(contacts)
        await storm.rage(events, contacts, kills, revoke=events > 1000, patience=patience)
        verdict = await storm.verdict()
    print(verdict)
    verdict.sound()
    assert storm.kills == kills
    assert min(verdict.counts[each] for each in ("blank", "misspelt", "people by number")) > 0


@each_vendor
async def test_where_blanks_clear_the_oracle_of_values_sees_it(tmp_path, vendor):
    """The control."""
    vendor = vendor(share=0.0, seed=5)
    sink = typed(vendor)
    sink["settings"] |= {"batch": {"size": 10}, "blank": "clear"}
    async with storming(tmp_path, vendor, seed=5, kind=PeopleStorm, **sink) as storm:
        await storm.rage(events=100, contacts=25, revoke=False, patience=100)
        verdict = await storm.verdict()
    assert verdict.faults["values wrong"], verdict


@each_vendor
async def test_in_a_storm_people_who_were_there_keep_their_record(tmp_path, vendor):
    """They have no key, and their numbers are written as somebody typed them."""
    vendor = vendor(share=0.15, seed=2)
    for contact in range(0, 60, 2):
        vendor.seed(f"(212) 555-{contact:04}")
    settings = {"batch": {"size": 10}}
    async with storming(tmp_path, vendor, settings=settings, match=["key", "phone"]) as storm:
        await storm.rage(events=240, contacts=60, kills=1, revoke=False, patience=100)
        verdict = await storm.verdict()
    print(verdict)
    verdict.sound()
    assert verdict.counts["contacts"] == 60


@pytest.mark.faults
@pytest.mark.timeout(1800)
@each_vendor
async def test_after_a_long_storm_each_contact_and_event_is_there_once(tmp_path, vendor):
    seed = random.randrange(2**32)
    print(f"\nseed {seed}")
    vendor = vendor(share=0.15, seed=seed)
    async with storming(tmp_path, vendor, settings={"batch": {"size": 50}}, seed=seed) as storm:
        await storm.rage(events=20_000, contacts=5_000, kills=8, patience=1500)
        verdict = await storm.verdict()
    print(verdict)
    verdict.sound()
    assert verdict.counts["dead"] >= 100
    assert vendor.fired.keys() >= vendor.kinds()


@each_vendor
async def test_the_clock_of_a_storm_leaves_an_answer_its_time(tmp_path, vendor):
    """The time-out is one of the network, which is no faster in a storm."""
    vendor = late(vendor(share=0.0, slow=0.0))
    async with storming(tmp_path, vendor) as storm:
        await storm.relay.start()
        await storm.send([Callback(str(each), each) for each in range(3)])
        await storm.relay.delivered()
        assert await storm.relay.stop() == 0
        verdict = await storm.verdict()
    verdict.sound()
    assert verdict.counts["tried again"] == 0


async def test_the_oracle_of_activities_sees_whose_they_are(tmp_path):
    """The control: one is tied to a second contact, one to none, as its delivery died before."""
    vendor = HubSpot(share=0.0, slow=0.0)
    settings = {"retry": {"initial": "1s", "max": "1s", "attempts": 1, "window": "1s"}}
    async with storming(tmp_path, vendor, settings=settings) as storm:
        await storm.relay.start()
        await storm.send([Callback("first", 1), Callback("second", 2)])
        await storm.relay.delivered()
        (link, other) = vendor.stub.associations
        vendor.stub.associations.append(link | {"to": other["to"]})
        vendor.stub.fault("503", count=1_000, on="/associations/")
        await storm.send([Callback("third", 3)])
        await storm.relay.delivered()
        assert await storm.relay.stop() == 0
        verdict = await storm.verdict()
    (shared,) = verdict.faults.pop("activities of another")
    assert set(shared.contacts.values()) == {"12125550001", "12125550002"}
    for fault in ("activities of nobody", "dead for nothing"):
        ((event, ending),) = verdict.faults.pop(fault)
        assert storm.acked[event] == "third"
        assert ending.startswith("DEAD after 2 attempts: 503")
    verdict.sound()


def late(vendor):
    """Its answers' bodies come some time after their heads."""

    async def app(scope, receive, send):
        async def send_late(message):
            if message["type"] == "http.response.body":
                await asyncio.sleep(SLOW / 4)
            await send(message)

        await answer(scope, receive, send_late)

    answer, vendor.app = vendor.app, app
    return vendor


@each_vendor
async def test_a_key_that_changes_with_each_attempt_leaves_doubles(tmp_path, vendor):
    """The control: one record for each event, but for the faults."""
    vendor = vendor(share=0.2, seed=1)
    key = "{{ id }}-{{ range(100) | random }}"
    values = {name: value for name, value in vendor.map().items() if name.lower() != "email"}
    settings = {"batch": {"size": 10}, "map": values}
    async with storming(tmp_path, vendor, settings=settings, key=key) as storm:
        await storm.rage(events=200, contacts=50, kills=1, revoke=False, patience=100)
        verdict = await storm.verdict()
    people = Counter(person.number for person in vendor.people())
    assert [number for number, times in people.items() if times > 1], verdict


@each_vendor
async def test_without_an_order_contacts_end_up_stale(tmp_path, vendor):
    """The control: of two writes that are under way together, the older one may land last."""
    settings = {"batch": {"size": 10}, "order": "none"}
    for seed in range(1, STORMS + 1):  # in one storm by chance no last write may be overtaken
        made = vendor(share=0.0, slow=0.5, seed=seed)
        folder = tmp_path / f"{seed}"
        async with storming(folder, made, settings=settings, seed=seed) as storm:
            await storm.rage(events=300, contacts=30, revoke=False, patience=100)
            verdict = await storm.verdict()
        if verdict.faults["contacts stale"]:
            break
    assert verdict.faults["contacts stale"], verdict


# how many calls it takes


@each_vendor
async def test_a_backlog_of_a_thousand_takes_few_calls(tmp_path, vendor):
    """Signing in counts, too."""
    plain, told = await calls_of(tmp_path / "plain", vendor(), activity=None)
    with_activities, _ = await calls_of(tmp_path / "activities", vendor())
    print(f"\n{told}: {plain} calls for 1,000 events, {with_activities} with activities")
    assert plain <= {"salesforce": 6, "hubspot": 11}[told]
    assert with_activities <= {"salesforce": 11, "hubspot": 31}[told]


async def test_communications_or_a_list_take_few_calls(tmp_path):
    """That communications are unique in this account is found out by writing them."""
    listed, _ = await calls_of(tmp_path / "list", HubSpotLog(), activity=None)
    logged, _ = await calls_of(tmp_path / "log", HubSpotLog(), lists=[])
    print(f"\nhubspot: {listed} calls for 1,000 events with a list, {logged} with communications")
    assert listed <= 21
    assert logged <= 31


async def calls_of(folder, vendor, **options):
    """How many calls a thousand events of as many contacts take, and whose they are."""
    folder.mkdir()
    settings = {"batch": {}}
    async with storming(folder, vendor, speed=1, settings=settings, **options) as storm:
        await storm.backlog([Callback(str(each), each) for each in range(1000)])
        await storm.relay.delivered()
    assert len(vendor.people()) == 1000
    return len(vendor.stub.calls), vendor.name


@each_vendor
async def test_a_kill_under_backlog_makes_few_calls_more(tmp_path, vendor):
    """What was in flight goes with nothing beside it, but not record by record."""
    vendor = vendor(share=0.0, slow=1.0)
    async with storming(tmp_path, vendor, speed=1, settings={"batch": {}}) as storm:
        await storm.backlog([Callback(str(each), each) for each in range(2000)])
        vendor.calm = False
        await vendor.stub.called(4)
        storm.relay.kill()
        vendor.calm = True
        before = len(vendor.stub.calls)
        await storm.relay.start()
        await storm.relay.delivered()
    calls = len(vendor.stub.calls) - before
    print(f"\n{vendor.name}: {calls} calls after a kill with 2,000 events to go")
    assert len(vendor.people()) == len(vendor.activities()) == 2000
    assert calls <= {"salesforce": 40, "hubspot": 100}[vendor.name]


async def test_hubspot_throttles_nobody_who_heeds_its_headers(tmp_path):
    """A hundred calls in ten seconds are allowed; each event is one call here."""
    governed, calm = await throttled_by_the_second(tmp_path / "with")
    ungoverned, wild = await throttled_by_the_second(tmp_path / "without", CRM_UNGOVERNED="1")
    print(f"\nhubspot: {governed} calls, {calm} throttled; ungoverned {ungoverned}, {wild}")
    assert (governed, calm) == (400, 0)
    assert wild > 0


async def throttled_by_the_second(folder, **environment):
    """Calls and throttled answers for 400 events."""
    folder.mkdir()
    epoch = time.time()
    speed = 6  # on a busy machine, too, more calls are made than are allowed
    vendor = HubSpot(BriskClock(speed, epoch))
    vendor.stub.burst_most = 100
    async with storming(
        folder,
        vendor,
        speed=speed,
        epoch=epoch,
        settings={"batch": {"size": 1}},
        environment=environment,
        activity=None,
        **vendor.by_key(),
    ) as storm:
        await storm.backlog([Callback(str(each), each) for each in range(400)])
        await storm.relay.delivered()
    assert len(vendor.people()) == 400
    return len(vendor.stub.calls), vendor.throttled()


@each_vendor
async def test_the_last_calls_of_a_day_are_for_opt_outs(tmp_path, vendor):
    """A hundred calls a day are allowed; each event is one call here."""
    vendors = [vendor(), vendor()]
    governed, calm = await throttled_by_the_day(tmp_path / "with", vendors[0])
    ungoverned, wild = await throttled_by_the_day(
        tmp_path / "without", vendors[1], CRM_UNGOVERNED="1"
    )
    name = vendors[0].name
    print(f"\n{name}: {governed} calls, {calm} throttled; ungoverned {ungoverned}, {wild}")
    assert calm == 0
    assert wild > 0


async def throttled_by_the_day(folder, vendor, **environment):
    """Calls and throttled answers for 150 events and an opt-out, over two days."""
    folder.mkdir()
    vendor.stub.api_most = 100
    async with storming(
        folder,
        vendor,
        settings={"batch": {"size": 1}},
        environment=environment,
        activity=None,
        **vendor.by_key(),
    ) as storm:
        await storm.backlog([Callback(str(each), each) for each in range(150)])
        await vendor.stub.called(90)
        if not environment:
            await storm.send([Callback("150", 150, message="STOP")])
            await eventually(lambda: any(person.opted_out for person in vendor.people()))
            assert len(vendor.stub.calls) < 100
        else:
            await eventually(vendor.throttled)
        vendor.stub.api_used = 0
        await storm.relay.delivered()
    return len(vendor.stub.calls), vendor.throttled()
