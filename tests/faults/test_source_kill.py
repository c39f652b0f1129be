"""kill -9 between storing a batch of a plugin's source and answering it.

Each batch has two messages and one that is bad. The vendor of texter sends a batch again until it
is answered, and knows its own id of each message.
"""

import asyncio
import csv
import hashlib
import hmac
import itertools
import json
import random
from collections import Counter
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from oracle import PAGE, integrity
from relays import PATIENCE, POLL, RUN, Relay, live

from relay.store import EventFilter
from relay.store.sqlite import SqliteStore

TEXTER = Path(__file__).parents[1] / "madeup" / "texter.py"
SECRET = "a-secret-of-texter"
SENDERS = 4
GOOD, BAD = ("first", "last"), "bad"
DEDUP_KEY = '            dedup_key=given["id"],\n'
EVERY_ROW = 1_000_000

CONFIG = """
server: {{listen: "127.0.0.1:{port}"}}
admin: {{listen: "127.0.0.1:{admin}"}}
store: data/relay.db
plugins: [plugins]
sources:
  texter:
    plugin: texter
    limit: {{rate: 1000000/1s, bytes: 10GiB/1s}}
    options: {{secrets: ["{secret}"]}}
sinks:
  archive:
    plugin: csv
    options: {{path: out/events.csv}}
    retry: {{initial: 50ms, max: 1s}}
    breaker: {{cooldown: 1s}}
"""


def texter_relay(folder, *, dedup_key=True, command=None):
    """A relay with the source texter, which may lack its dedup_key."""
    relay = Relay(folder, **({"command": command} if command else {}))
    relay.config.write_text(CONFIG.format(port=relay.port, admin=relay.admin, secret=SECRET))
    text = TEXTER.read_text()
    assert DEDUP_KEY in text
    (folder / "plugins").mkdir()
    (folder / "plugins" / "texter.py").write_text(
        text if dedup_key else text.replace(DEDUP_KEY, "")
    )
    return relay


class Vendor:
    """Sends numbered batches; `sent` has all of them, `answered` the answers of status 202."""

    def __init__(self, relay) -> None:
        self.relay = relay
        self.sent: list[int] = []
        self.answered: dict[int, str] = {}
        self._numbers = itertools.count()

    async def send(self, number: int) -> str:
        """The answer. Raises httpx.TransportError where none comes."""
        body = json.dumps([self.message(number, part) for part in (GOOD[0], BAD, GOOD[1])]).encode()
        signature = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
        async with httpx.AsyncClient(timeout=PATIENCE) as http:
            url = f"http://127.0.0.1:{self.relay.port}/callbacks/texter"
            answer = await http.post(url, content=body, headers={"X-Texter-Signature": signature})
        assert answer.status_code == 202, answer.text
        return answer.text

    def message(self, number: int, part: str) -> dict[str, str]:
        contact = f"+1212555{(number * 2 + (part == GOOD[1])) % 10_000:04}"
        return {
            "id": f"{number}-{part}",
            "from": "nobody" if part == BAD else contact,
            "text": f"JOIN {number}",
        }

    async def send_new(self) -> None:
        number = next(self._numbers)
        self.sent.append(number)
        self.answered[number] = await self.send(number)

    @asynccontextmanager
    async def sending(self):
        """Send new batches while the block runs, whenever the relay is up."""
        tasks = [asyncio.create_task(self._sends()) for _ in range(SENDERS)]
        try:
            yield
            for task in tasks:
                assert not task.done(), task
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _sends(self) -> None:
        while True:
            await self.relay.up.wait()
            try:
                await self.send_new()
            except httpx.TransportError:
                await asyncio.sleep(POLL)


class Kept:
    """What the store of a stopped relay has of each message, by the vendor's id."""

    def __init__(self, events, quarantined) -> None:
        self.events: dict[str, list[str]] = {}
        for row in events:
            content = json.loads(row.callback.body)
            assert row.event.data == {"sender": content["from"], "words": content["text"]}
            self.events.setdefault(content["id"], []).append(row.event.id)
        self.quarantined = Counter()
        for row in quarantined:
            assert (row.status, row.reason) == (422, "`from` is no number")
            self.quarantined[json.loads(row.callback.body)["id"]] += 1

    def ids(self) -> list[str]:
        return sorted(itertools.chain.from_iterable(self.events.values()))

    def doubled(self) -> list[str]:
        return [each for each, ids in self.events.items() if len(ids) > 1]

    def whole(self, number: int) -> bool:
        """Whether all parts of a batch are there."""
        good = [f"{number}-{part}" in self.events for part in GOOD]
        return all(good) and f"{number}-{BAD}" in self.quarantined

    def check(self, vendor: Vendor) -> None:
        """All that was answered is there, nothing twice, nothing that was not sent."""
        missing = [number for number in vendor.answered if not self.whole(number)]
        assert not missing
        assert not self.doubled()
        assert self.events.keys() <= {f"{each}-{part}" for each in vendor.sent for part in GOOD}
        assert self.quarantined.keys() <= {f"{each}-{BAD}" for each in vendor.sent}
        assert set(self.quarantined.values()) <= {1}


async def kept(relay) -> Kept:
    assert integrity(relay.store) == "ok"
    store = await SqliteStore.open(relay.store)
    try:
        events, after = [], 0
        while page := await store.events_after(EventFilter(), after=after, limit=PAGE):
            events += page
            after = page[-1].seq
        return Kept(events, await store.quarantined(limit=EVERY_ROW))
    finally:
        await store.close()


async def stopped(relay) -> Kept:
    """Deliver all there is, stop, and look into the store."""
    if relay.process.poll() is not None:
        await relay.start()
    await relay.delivered()
    assert await relay.stop() == 0, relay.last_words()
    return await kept(relay)


async def sent_again(relay, vendor) -> Kept:
    """Send every batch once more, as a vendor does without an answer, and a new one."""
    await relay.start()
    await relay.delivered()
    for number in vendor.sent:
        vendor.answered[number] = await vendor.send(number)
    await vendor.send_new()
    assert vendor.answered[vendor.sent[-1]] == "kept unclear kept"
    return await stopped(relay)


async def kill_at_random(relay, vendor, kills, chance):
    """Kill the relay so often, and more until some batches were answered."""
    async with vendor.sending():
        done = 0
        while done < kills or len(vendor.answered) < 5 * kills:
            done += 1
            assert done <= 10 * kills, f"{len(vendor.answered)} answered by then"
            await live(relay, chance)
            assert relay.process.poll() is None, relay.last_words()
            relay.kill()
    return done


async def check_resends(relay, vendor, kills):
    """Check what the kills left, then that sending all again adds what was missing, once."""
    before = await stopped(relay)
    before.check(vendor)
    unanswered = set(vendor.sent) - vendor.answered.keys()
    stored = [number for number in unanswered if before.whole(number)]
    after = await sent_again(relay, vendor)
    assert not after.doubled()
    assert after.events.keys() == {f"{each}-{part}" for each in vendor.sent for part in GOOD}
    for message, ids in before.events.items():
        assert after.events[message] == ids
    with relay.csv.open(newline="") as file:
        written = [row["id"] for row in csv.DictReader(file)]
    assert sorted(written) == after.ids()
    print(
        f"\n{kills} kills: {len(vendor.sent)} batches sent, {len(unanswered)} not answered, of"
        f" which {len(stored)} stored; {len(after.events)} events, {len(after.doubled())} doubled"
    )
    return stored


async def test_random_kills_lose_and_double_nothing(tmp_path):
    relay = texter_relay(tmp_path)
    vendor = Vendor(relay)
    try:
        kills = await kill_at_random(relay, vendor, 4, random.Random(7))
        await check_resends(relay, vendor, kills)
    finally:
        relay.close()


@pytest.mark.faults
@pytest.mark.timeout(1800)
async def test_many_random_kills_lose_and_double_nothing(tmp_path):
    relay = texter_relay(tmp_path)
    vendor = Vendor(relay)
    try:
        kills = await kill_at_random(relay, vendor, 40, random.Random())
        await check_resends(relay, vendor, kills)
    finally:
        relay.close()


EVENTS_STORED = "relay.spill.failover.FailoverStore.receive_all:after:10"
BAD_PART_STORED = "relay.spill.failover.FailoverStore.quarantine:after:10"
NOT_ANSWERED = "relay.server.ingress.CallbackEndpoint._answer:before:10"


async def killed_at(step, folder, **options):
    """A relay that is killed at this step, and its vendor."""
    relay = texter_relay(folder, command=["-m", "doomed", step, "run"], **options)
    vendor = Vendor(relay)
    async with vendor.sending():
        await relay.start()
        await relay.ended()
    assert f"killed at {step}" in relay.log.read_text()
    assert vendor.sent
    assert len(vendor.answered) < len(vendor.sent)
    relay.command = list(RUN)
    return relay, vendor


@pytest.mark.parametrize("step", [EVENTS_STORED, BAD_PART_STORED, NOT_ANSWERED])
async def test_a_kill_between_storing_and_answering(tmp_path, step):
    relay, vendor = await killed_at(step, tmp_path)
    try:
        stored = await check_resends(relay, vendor, 1)
        assert stored or step == EVENTS_STORED
    finally:
        relay.close()


async def test_without_a_dedup_key_the_batches_that_come_again_are_doubled(tmp_path):
    """The control."""
    relay, vendor = await killed_at(NOT_ANSWERED, tmp_path, dedup_key=False)
    try:
        (await stopped(relay)).check(vendor)
        after = await sent_again(relay, vendor)
        answered = {f"{each}-{part}" for each in vendor.sent[:-1] for part in GOOD}
        assert set(after.doubled()) <= answered
        assert len(after.doubled()) > len(answered) / 2
    finally:
        relay.close()
