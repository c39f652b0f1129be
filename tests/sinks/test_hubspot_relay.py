"""The whole relay in front of the stub: what stands in HubSpot is what came in, each once."""

import asyncio
import itertools
import json
from collections import Counter
from datetime import UTC, datetime

import pytest
from arrivals import arrival
from hubspotsink import LOG, TOKEN, opened
from relaying import relaying
from stubs.hubspot import HubSpotStub
from stubs.hubspot_lists import RecordList
from stubs.vendor import serving
from workers import reached, running

from relay.clock import SystemClock
from relay.config.sinks import Batch
from relay.store.sqlite import SqliteStore
from relay.templating.expressions import Compiler

MAP = {
    "firstname": "{{ data.fields.Name }}",
    "mobilephone": "{{ data.mobile }}",
    "sms_opt_out": "{{ opted_out }}",
    "message": "{{ data.message }}",
}
MESSAGE = {"message": "{{ data.message }}"}
OBJECT = {"object": {"type": "2-123", "id_property": "event_id", "association": 17, "map": MESSAGE}}
EVENT = {"event": {"name": "pe123_sms", "map": MESSAGE}}


@pytest.fixture
async def stub():
    stub = HubSpotStub()
    async with serving(stub.app) as stub.url:
        yield stub


def sink(stub, *, map=MAP, batch=None, concurrency=4, **options):  # noqa: A002  its name there
    """The settings of the sink."""
    return {
        "plugin": "hubspot",
        "map": map,
        "options": {"base_url": stub.url, "token": TOKEN} | options,
        "concurrency": concurrency,
    } | ({"batch": batch} if batch else {})


async def passed(clock, relay, **expected):
    """Let time pass until the sink's counts are these; an answer may be late, and pause it anew."""
    async with asyncio.timeout(20):
        while not expected.items() <= (await relay.status()).items():
            await clock.advance(301)
            await asyncio.sleep(0.05)


def properties_read(stub):
    return [call for call in stub.calls if "/properties/" in call.path]


def actions(stub):
    """How often each path was called."""
    return Counter("/".join(call.path.split("/")[-3:]) for call in stub.calls)


@pytest.mark.parametrize(
    ("options", "most"),
    [
        ({}, 10),
        ({"only_if_empty": ["firstname"]}, 20),
        ({"match": ["key", "phone"]}, 30),
        ({"activity": EVENT}, 20),
        ({"activity": OBJECT}, 30),
        ({"lists": [7]}, 20),
    ],
    ids=["plain", "only_if_empty", "phone", "event", "object", "lists"],
)
async def test_what_a_thousand_events_under_backlog_cost(tmp_path, stub, options, most):
    stub.lists["7"] = RecordList("Joined")
    names = {"firstname": "Ann", "mobilephone": "{{ data.mobile }}"}
    settings = {"map": Compiler().mapping(names), "batch": Batch(100, 0.0), "concurrency": 4}
    store = await SqliteStore.open(tmp_path / "relay.db")
    await asyncio.gather(*(store.add(arrival(number)) for number in range(1000)))
    async with (
        opened(stub.url, columns=tuple(names), **options) as made,
        running(store, SystemClock(), made, **settings),
    ):
        await reached(store, 0, 1000, 0)
    await store.close()
    LOG.info("%d calls for 1,000 events: %s", len(stub.calls), dict(actions(stub)))
    assert len(stub.calls) <= most
    assert {call.status for call in stub.calls} <= {200, 204, 207}
    assert len(stub.records("contacts")) == 1000


async def test_a_backlog_of_the_whole_relay_goes_in_full_batches(tmp_path, stub):
    async with relaying(tmp_path, sink(stub)) as relay:
        await relay.backlog(range(300))
        await relay.reached(delivered=300, pending=0, dead=0)
    assert len(stub.calls) == 3
    assert len(stub.records("contacts")) == 300


@pytest.mark.parametrize("activity", [OBJECT, EVENT], ids=["object", "event"])
async def test_with_faults_there_is_one_contact_and_one_activity_for_each_event(
    tmp_path, stub, activity
):
    settings = sink(stub, activity=activity, batch={"size": 10})
    async with relaying(tmp_path, settings) as relay:
        for fault in ("drop_after_commit", "502", "500_after_commit", "empty", "drop", "garbage"):
            stub.fault(fault, count=2)
        stub.fault_row("SILENT", count=3)
        stub.fault_row("LOCKED", count=1)
        ids = [await relay.send_many(range(20), f"text {turn}") for turn in range(3)]
        await relay.reached(delivered=60, pending=0, dead=0)
    contacts = stub.records("contacts")
    assert stub.fired.total() >= 12
    assert len({each["sms_key"] for each in contacts}) == len(contacts) == 20
    assert {each["message"] for each in contacts} == {"text 2"}
    logged = [each["event_id"] for each in stub.records("2-123")]
    logged += [each["uuid"] for each in stub.events]
    assert sorted(logged) == sorted(itertools.chain(*ids))


async def test_a_replay_leaves_not_one_record_more(tmp_path, stub):
    async with relaying(tmp_path, sink(stub, activity=OBJECT)) as relay:
        await relay.send_many(range(20), "first")
        await relay.send_many(range(20), "last")
        await relay.reached(delivered=40)
        before = [each["id"] for each in stub.records("contacts")]
        calls = len(stub.calls)
        await relay.command("replay", "--sink", "crm", "--since", "2020-01-01")
        await asyncio.wait_for(stub.called(calls + 1), 10)
        await relay.reached(pending=0, dead=0)
    assert [each["id"] for each in stub.records("contacts")] == before
    assert {each["message"] for each in stub.records("contacts")} == {"last"}
    assert len(stub.records("2-123")) == 40


async def test_a_revoked_key_pauses_and_no_attempt_is_spent(tmp_path, stub, clock):
    async with relaying(tmp_path, sink(stub), clock=clock) as relay:
        await relay.send(1)
        await relay.reached(delivered=1)
        stub.revoke_all()
        await relay.send_many(range(2, 6))
        found = await relay.reached(state="paused")
        assert "put a working key into options.token" in found["reason"]
        assert (found["pending"], found["dead"]) == (4, 0)
        for _ in range(2):  # probes
            asked = len(properties_read(stub))
            while len(properties_read(stub)) == asked:
                await clock.advance(301)
                await asyncio.sleep(0.05)
        assert (await relay.status())["pending"] == 4
        stub.restore_all()
        await passed(clock, relay, delivered=5, pending=0, dead=0)
        for event in await relay.asked("events", "list"):
            shown = await relay.asked("events", "show", event["id"])
            assert shown["deliveries"][0]["attempts"] <= 1
    assert len(stub.records("contacts")) == 5


async def test_the_days_end_pauses_and_goes_on_by_itself(tmp_path, stub, clock):
    stub.api_used = stub.api_most
    async with relaying(tmp_path, sink(stub), clock=clock) as relay:
        await relay.send_many(range(3))
        found = await relay.reached(state="paused")
        assert "midnight" in found["reason"]
        stub.new_day()
        await passed(clock, relay, delivered=3, dead=0)
    assert [call.status for call in stub.calls].count(429) <= 4


async def test_a_property_that_is_made_meanwhile_ends_the_pause(tmp_path, stub, clock):
    settings = sink(stub, map=MAP | {"sms_color": "red"})
    async with relaying(tmp_path, settings, clock=clock) as relay:
        await relay.send(1)
        found = await relay.reached(state="paused")
        assert "sms_color" in found["reason"]
        assert "made the property sms_color" in await relay.command("setup", "crm")
        await passed(clock, relay, delivered=1, dead=0)
    assert stub.records("contacts")[0]["sms_color"] == "red"


async def test_a_bad_record_is_dead_and_comes_back_after_the_map_is_mended(tmp_path, stub):
    settings = sink(stub, map=MAP | {"email": "{{ data.message }}"}, on_invalid="dead")
    async with relaying(tmp_path, settings) as relay:
        await relay.backlog([])
        for number in range(10):
            await relay.send(number, f"a{number}@b.example")
        await relay.send(11, "no address")
        await relay.reached(delivered=10, dead=1)
        (dead,) = await relay.asked("dead", "list")
        assert "INVALID_EMAIL" in json.dumps(dead)
        assert "no address" not in json.dumps(dead)
    async with relaying(tmp_path, sink(stub)) as relay:
        await relay.command("dead", "replay", "--all", "--sink", "crm")
        await relay.reached(delivered=11, dead=0)
    assert len(stub.records("contacts")) == 11


async def test_a_value_that_is_none_costs_the_value_and_is_said(tmp_path, stub):
    """What a filter of the map refuses, and what HubSpot does, in the activity, too."""
    birthday = "{{ data.message | date(['%m/%d/%Y', '%d.%m.%Y'], '%Y-%m-%d') }}"
    names = MAP | {"sms_joined": birthday, "email": "{{ data.message }}"}
    activity = {"event": {"name": "pe123_sms", "map": MESSAGE | {"reply": birthday}}}
    async with relaying(tmp_path, sink(stub, map=names, activity=activity)) as relay:
        await relay.send(1, "yesterday")
        await relay.reached(delivered=1, dead=0)
        (event,) = await relay.asked("events", "list")
        found = await relay.asked("events", "show", event["id"])
    (delivery,) = found["deliveries"]
    no_date = "its value is not a date of the form '%m/%d/%Y' or '%d.%m.%Y'"
    assert delivery["note"] == (
        f"without sms_joined: {no_date}; without email: INVALID_EMAIL;"
        f" activity without reply: {no_date}"
    )
    assert stub.events[0]["properties"] == {"message": "yesterday"}


async def test_a_list_that_is_not_there_is_said_and_keeps_nothing_from_going_on(
    tmp_path, stub, clock
):
    """The check's notices of the list and of communications do not hold a sink that was paused."""
    stub.lists["7"] = RecordList("Joined")
    by_text = "{{ {'join': '7', 'vip': '8'}[data.message] }}"
    activity = {"communication": {"body": "{{ data.message }}"}}
    settings = sink(stub, lists=[by_text], activity=activity)
    async with relaying(tmp_path, settings, clock=clock) as relay:
        stub.revoke_all()
        await relay.send(1, "vip")
        await relay.send(2, "join")
        await relay.reached(state="paused")
        stub.restore_all()
        await passed(clock, relay, delivered=2, pending=0, dead=0)
        told = await relay.command("check", "--online")
        assert "crm: well" in told
        assert "crm: notice: options.lists: HubSpot has no list 8" in told
        assert "communications have no property sms_event_id; relay setup crm makes it" in told
        notes = {
            event["data"]["mobile"]: (await relay.asked("events", "show", event["id"]))
            for event in await relay.asked("events", "list")
        }
    notes = sorted(str(each["deliveries"][0].get("note")) for each in notes.values())
    assert notes[0] == "None"
    assert notes[1].startswith("not in list 8: 404 OBJECT_NOT_FOUND: ")
    assert len(stub.lists["7"].members) == 1
    assert len(stub.records("contacts")) == len(stub.records("communications")) == 2


async def test_an_opt_out_is_the_last_word_whatever_comes_late(tmp_path, stub):
    async with relaying(tmp_path, sink(stub, activity=OBJECT)) as relay:
        await relay.send(1, "hello")
        await relay.send(1, "STOP")
        await relay.reached(delivered=2, pending=0)
        await relay.command("replay", "--sink", "crm", "--since", "2020-01-01")
        await relay.reached(pending=0, dead=0)
    (contact,) = stub.records("contacts")
    assert contact["sms_opt_out"] == "true"
    assert len(stub.records("2-123")) == 2


async def test_check_and_setup_speak_to_the_account(tmp_path, stub):
    stub.seed("contacts", {"mobilephone": "(212) 555-0001"})
    del stub.fields["contacts"]["sms_key"]
    async with relaying(tmp_path, sink(stub)) as relay:
        told = await relay.command("setup", "crm", "--backfill-keys")
        assert "made the property sms_key (unique text)" in told
        assert "1 people were given theirs" in told
        assert "crm: well" in await relay.command("check", "--online")
        await relay.send(1)
        await relay.reached(delivered=1)
    assert len(stub.records("contacts")) == 1


# a STOP, whatever stands in its way

CONSENT = {"field": "sms_opt_out"}
NAMES = {name: value for name, value in MAP.items() if name != "sms_opt_out"}
NUMBER = "(212) 555-0001"


def opted_out(stub):
    return [each.get("sms_opt_out") for each in stub.records("contacts")]


async def test_a_stop_passes_a_pause_and_bad_records_and_is_kept_against_an_older_start(
    tmp_path, stub
):
    """Five bad records come before it; then a property is missing; then a START is replayed."""
    stub.seed("contacts", {"lastname": "Doe", "phone": NUMBER})
    names = NAMES | {"email": "{{ data.message }}", "sms_color": "red"}
    settings = sink(stub, map=names, consent=CONSENT, on_invalid="dead")
    async with relaying(tmp_path, settings) as relay:
        await relay.send(1, "START")
        await relay.send_many(range(2, 8), "no address")
        await relay.reached(state="paused")
        before = datetime.now(UTC).isoformat()
        await relay.send(1, "STOP")
        async with asyncio.timeout(20):
            while "true" not in opted_out(stub):
                await asyncio.sleep(0.02)
        assert (await relay.status())["state"] == "paused"
        del settings["map"]["sms_color"]
    async with relaying(tmp_path, settings) as relay:
        await relay.command("sinks", "resume", "crm")
        await relay.reached(pending=0)
        older = ("--since", "2020-01-01", "--until", before)
        assert "START" in await relay.command("replay", "--sink", "crm", *older, "--dry-run")
        await relay.command("replay", "--sink", "crm", *older)
        await relay.reached(pending=0)
    doe = stub.records("contacts")[0]
    assert (doe["lastname"], doe["sms_opt_out"]) == ("Doe", "true")
    of_number = [each for each in stub.records("contacts") if each.get("sms_key") == "12125550001"]
    assert {each.get("sms_opt_out") for each in of_number} <= {"true"}
