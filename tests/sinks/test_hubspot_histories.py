"""Random histories before a HubSpot that fails in every way: what stands there in the end."""

import asyncio
import random
from collections import Counter, defaultdict, deque

import pytest
from hubspotsink import delivery, key, mobile, opened
from stubs.hubspot import HubSpotStub
from stubs.vendor import serving

import relay

MESSAGE = {"message": "{{ data.message }}"}
OBJECT = {"object": {"type": "2-123", "id_property": "event_id", "association": 17, "map": MESSAGE}}
EVENT = {"event": {"name": "pe123_sms", "map": MESSAGE}}
FAULTS = (
    *("502", "503", "423", "429", "secondly", "html", "garbage", "empty", "drop"),
    *("drop_after_commit", "500_after_commit"),
)
ROWS = ("SILENT", "SILENT_AFTER_COMMIT", "NAMELESS", "LOCKED", "INTERNAL_ERROR", "RATE_LIMITS")
PEOPLE, EVENTS, TURNS = 12, 60, 3000


class History:
    """One account, one set of options, sixty events of twelve people, all drawn by a seed."""

    def __init__(self, seed):
        self.draw = random.Random(seed)
        self.stub = HubSpotStub(seed=seed)
        self.delivered = {}
        self.dead = {}
        self.waiting = defaultdict(deque)
        self.options = {
            "match": self.draw.choice([["key"], ["key", "phone"], ["key", "phone", "email"]]),
            "on_invalid": self.draw.choice(["drop", "truncate", "dead"]),
            "unknown_property": self.draw.choice(["drop", "pause"]),
            "on_conflict": self.draw.choice([None, "separate", "adopt", "dead"]),
            "only_if_empty": self.draw.choice([[], ["city"]]),
            "api_version": self.draw.choice(["v3", "2026-09"]),
            "activity": self.draw.choice([None, OBJECT, EVENT]),
        }
        self._turn_the_screws()
        self._fill()

    def _turn_the_screws(self):
        stub = self.stub
        stub.multi_status, stub.echo_traces = self._often(), self._often()
        stub.burst_most = stub.search_most = 1_000_000  # waiting is tested elsewhere
        stub.error_codes, stub.merge_errors = self._often(), not self._often()
        stub.chance = lambda *_: self.draw.choice(FAULTS) if self.draw.random() < 0.15 else None

    def _often(self):
        return self.draw.random() < 0.7

    def _fill(self):
        for person in range(PEOPLE):
            if self.draw.random() < 0.5:
                known = {self.draw.choice(["phone", "mobilephone"]): mobile(person)}
                self.stub.seed("contacts", known)
        for number in range(EVENTS):
            person = self.draw.randrange(PEOPLE)
            record = {"message": f"m{number}", "city": f"c{number}"}
            if self.draw.random() < 0.3:
                record["email"] = f"a{person}@b.example"
            if self.draw.random() < 0.1:
                record["sms_count"] = "many"
            self.waiting[person].append(delivery(person, record, message=f"m{number}"))

    async def run(self, url):
        """As a worker would: each person's events in their order, until each has an end."""
        async with opened(url, **self.options) as sink:
            sink._client._throttled = lambda _problem: None
            sink._people._by_number._searches.acquire = lambda: asyncio.sleep(0)
            for _ in range(TURNS):
                if not any(self.waiting.values()):
                    return
                for code in ROWS:
                    if self.draw.random() < 0.03:
                        self.stub.fault_row(code)
                await self._turn(sink)
        pytest.fail("it does not end")

    async def _turn(self, sink):
        people = [person for person, events in self.waiting.items() if events]
        people = self.draw.sample(people, min(len(people), self.draw.randint(1, 8)))
        outcomes = await sink.send_batch([self.waiting[person][0] for person in people])
        for person, outcome in zip(people, outcomes, strict=True):
            assert not isinstance(outcome, relay.Pause), outcome.reason
            if not isinstance(outcome, relay.Retry):
                ends = self.dead if isinstance(outcome, relay.Reject) else self.delivered
                ends[self.waiting[person].popleft().id] = (person, outcome)

    def logged(self):
        """The ids of the events that stand on the timelines."""
        match self.options["activity"]:
            case None:
                return None
            case {"object": _}:
                tied = {each["from"] for each in self.stub.associations}
                return [
                    each["event_id"] for each in self.stub.records("2-123") if each["id"] in tied
                ]
            case _:
                return [each["uuid"] for each in self.stub.events]


@pytest.mark.parametrize("seed", range(12))
async def test_a_random_history(seed):
    history = History(seed)
    async with serving(history.stub.app) as url:
        await history.run(url)
    contacts = history.stub.records("contacts")
    keys = Counter(each["sms_key"] for each in contacts if "sms_key" in each)
    written = {person for person, _ in history.delivered.values()}
    assert set(keys.values()) == {1}
    assert {key(person) for person in written} <= keys.keys()
    assert len(history.delivered) + len(history.dead) == EVENTS
    if history.options["match"] != ["key"]:  # who was there by phone is there once
        assert len(contacts) <= PEOPLE
    logged = history.logged()
    if logged is not None:
        assert max(Counter(logged).values()) == 1
        assert history.delivered.keys() <= set(logged)
    for _, outcome in history.dead.values():
        assert "sms_count" in outcome.reason or "email" in outcome.reason
