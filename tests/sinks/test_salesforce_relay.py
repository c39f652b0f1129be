"""The whole relay in front of the stub: what stands in the org is what came in, each once."""

import asyncio
import itertools
import json
from contextlib import asynccontextmanager

import httpx
import pytest
import yaml
from arrivals import arrival
from click.testing import CliRunner
from salesforcesink import ACTIVITY, LOG, data_calls
from stubs.salesforce import SalesforceStub
from stubs.vendor import serving

from relay import config, service
from relay.cli import main

SETTINGS = {
    "server": {"listen": "127.0.0.1:0"},
    "admin": {"listen": "127.0.0.1:0"},
    "sources": {"sumotext": {"country": "US"}},
}
MAP = {
    "FirstName": "{{ data.fields.Name }}",
    "MobilePhone": "{{ data.mobile }}",
    "SMS_Opt_Out__c": "{{ opted_out }}",
    "SMS_Keyword__c": "{{ data.message }}",
}
SOON = {"retry": {"initial": "10ms", "max": "50ms"}, "breaker": {"failures": 1000}}


def configured(folder, url, *, sink=None, **options):
    """relay.yaml with one sink, `crm`."""
    given = {
        "login_url": url,
        "client_id": "id",
        "client_secret": "secret",
        "defaults": {"LastName": "Unknown"},
        **options,
    }
    crm = {
        "plugin": "salesforce",
        "map": MAP,
        "options": given,
        "allow_private": ["127.0.0.0/8"],
        **SOON,
        **(sink or {}),
    }
    path = folder / "relay.yaml"
    path.write_text(yaml.safe_dump({**SETTINGS, "sinks": {"crm": crm}}))
    return path


class Relay:
    """A running relay; its commands run in a thread, as they have an event loop of their own."""

    def __init__(self, path, running, http):
        self.path = path
        self.store = running._store
        self._url = f"http://127.0.0.1:{running.address[1]}/callbacks/sumotext"
        self._http = http
        self._numbers = itertools.count(1)

    async def send(self, contact, message="hello"):
        params = {
            "mobile": f"212555{contact:04}",
            "smsid": f"m{next(self._numbers)}",
            "shortcode": "84700",
            "key": "JOIN",
            "msg": message,
            "Name": f"Name{contact}",
        }
        answer = await self._http.get(self._url, params=params)
        assert answer.status_code == 200
        return answer.json()["id"]

    async def send_many(self, contacts, message="hello"):
        """Twenty at a time: httpx's pool is slow with many who wait for it."""
        waiting = iter(contacts)
        ids = []
        while some := list(itertools.islice(waiting, 20)):
            ids += await asyncio.gather(*(self.send(each, message) for each in some))
        return ids

    async def command(self, *arguments):
        words = [*arguments, "--config", str(self.path)]
        result = await asyncio.to_thread(CliRunner().invoke, main, words, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.stdout

    async def status(self):
        return json.loads(await self.command("status", "--json"))["sinks"]["crm"]

    async def reached(self, **expected):
        """Wait until the sink's counts are these."""
        async with asyncio.timeout(20):
            while True:
                found = await self.status()
                if {name: found[name] for name in expected} == expected:
                    return found
                await asyncio.sleep(0.02)


@asynccontextmanager
async def relaying(folder, stub, clock=None, **more):
    limits = httpx.Limits(max_connections=20)
    async with serving(stub.app) as url:
        path = configured(folder, url, **more)
        async with (
            service.started(config.load(path, {}), clock=clock) as running,
            httpx.AsyncClient(trust_env=False, limits=limits, timeout=20) as http,
        ):
            yield Relay(path, running, http)


@pytest.fixture
def stub():
    return SalesforceStub()


async def test_a_thousand_events_under_backlog_are_six_calls_at_the_most(tmp_path, stub):
    everybody = {**MAP, "LastName": "Doe"}
    async with relaying(tmp_path, stub, sink={"map": everybody}) as relay:
        await relay.command("sinks", "pause", "crm")
        await asyncio.gather(*(relay.store.add(arrival(each)) for each in range(1000)))
        await relay.command("sinks", "resume", "crm")
        await relay.reached(delivered=1000, pending=0, dead=0)
        calls = data_calls(stub)
    LOG.info("%d calls for 1,000 events", len(calls))
    assert len(calls) <= 6
    assert len(stub.records("Contact")) == 1000


async def test_with_faults_there_is_one_contact_and_one_activity_for_each_event(tmp_path, stub):
    async with relaying(tmp_path, stub, activity=ACTIVITY, sink={"batch": {"size": 10}}) as relay:
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


async def test_a_replay_leaves_not_one_record_more(tmp_path, stub):
    async with relaying(tmp_path, stub, activity=ACTIVITY) as relay:
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
    async with relaying(tmp_path, stub, client_secret="wrong") as relay:
        await relay.send_many(range(5))
        found = await relay.reached(state="paused")
        assert "client_secret" in found["reason"]
        assert found["pending"] == 5
        stub.client_secret = "wrong"
        await relay.command("sinks", "resume", "crm")
        await relay.reached(delivered=5, pending=0)
        events = json.loads(await relay.command("events", "list", "--json"))
        shown = [
            json.loads(await relay.command("events", "show", event["id"], "--json"))
            for event in events
        ]
    assert [each["deliveries"][0]["attempts"] for each in shown] == [1] * 5


async def test_the_end_of_the_quota_pauses_and_goes_on_by_itself(tmp_path, stub, clock):
    stub.api_used = stub.api_most
    async with relaying(tmp_path, stub, clock=clock) as relay:
        await relay.send_many(range(3))
        found = await relay.reached(state="paused")
        assert "API calls" in found["reason"]
        stub.api_used = 0
        await clock.advance(900)
        await relay.reached(delivered=3, dead=0)


async def test_opt_outs_alone_pass_at_the_share_of_the_quota(tmp_path, stub):
    stub.api_used = 95_000
    async with relaying(tmp_path, stub) as relay:
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
    async with relaying(tmp_path, stub, sink=sink) as relay:
        await relay.send_many(range(10), "a@b.example")
        await relay.send(11, "no address")
        await relay.reached(delivered=10, dead=1)
        (dead,) = json.loads(await relay.command("dead", "list", "--json"))
        assert "INVALID_EMAIL_ADDRESS" in json.dumps(dead)
        assert "no address" not in json.dumps(dead)
    async with relaying(tmp_path, stub) as relay:
        await relay.command("dead", "replay", "--all", "--sink", "crm")
        await relay.reached(delivered=11, dead=0)
    assert len(stub.records("Contact")) == 11


async def test_check_and_setup_speak_to_the_org(tmp_path, stub):
    stub.seed("Contact", {"LastName": "Doe", "MobilePhone": "(212) 555-0001"})
    async with relaying(tmp_path, stub) as relay:
        assert "crm" in await relay.command("check", "--online")
        told = await relay.command("setup", "crm", "--backfill-keys")
        assert "1 people have got their key" in told
        await relay.send(1)
        await relay.reached(delivered=1)
    assert len(stub.records("Contact")) == 1
