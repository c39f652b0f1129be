"""The disk of the store or of the spill hangs, or does not open or read: nothing waits for it.

strace puts it into the real relay, under load.
"""

import asyncio
import time
from dataclasses import dataclass, field
from pathlib import Path

import orjson
import pytest
import tracing
from oracle import Senders
from relays import EAGER, PATIENCE, POLL, Sender
from spilling import admin, home, relaying, verified
from uuid_utils import uuid7

from relay.event import RawCallback
from relay.spill.file import SpillFile
from relay.spill.records import Spilled, encode

pytestmark = pytest.mark.timeout(180)

HERE = Path(__file__).parent
UNTIMED = [str(HERE / "untimed.py")]
UNNOTED = [str(HERE / "unnoted.py")]
BOUND = 2.5
SHORT, LONG = 4.0, 40.0
SYNCS = "fdatasync,fsync"
GOOD = 0.1
"""Seconds within which 99 of 100 answers come."""
SLACK = 1.0
STARTS_ANEW_WITHIN = 5.0
CONTACT = 1


@pytest.fixture(scope="module", autouse=True)
def strace():
    tracing.needed()


def leave(relay, *said: tuple[float, str]) -> list[str]:
    """A spill with what a contact said so many seconds ago; the ids."""
    file = SpillFile(relay.spill)
    ids = [str(uuid7()) for _ in said]
    for given, (ago, message) in zip(ids, said, strict=True):
        query = f"mobile={2125550000 + CONTACT}&carrierId=T&key=JOIN&msg={message}".encode()
        received = int((time.time() - ago) * 1_000_000)
        callback = RawCallback("sumotext", "GET", query, "", b"", received)
        file.append([encode(Spilled(given, callback))])
    file.close()
    return ids


async def says(relay, message) -> int:
    async with Sender(relay.port, Senders()) as sender:
        return await sender.send(message, CONTACT)


def heard(relay) -> list[str]:
    """What the receiver was told of, in this order."""
    return [orjson.loads(request.body)["data"]["message"] for request in relay.receiver.requests]


# a spill that cannot be opened


async def test_a_spill_that_cannot_be_opened_at_first_is_taken_in_by_and_by(tmp_path):
    async with relaying(tmp_path / "relay", tmp_path) as relay:
        left = leave(relay, (20, "STOP"), (10, "START"))
        tracing.inject(relay, "openat", "error=EACCES", "1..3", [relay.spill])
        await relay.start()
        assert await says(relay, "STOP") == 200
        answer = await admin(relay, "/readyz")
        assert answer.status_code == 200
        assert any("Permission denied" in each for each in answer.json()["reasons"])
        metrics = (await admin(relay, "/metrics")).text
        assert "relay_spill_readable 0.0" in metrics
        assert "relay_spill_records 1.0" in metrics
        assert "Permission denied" in (await relay.status())["spill_trouble"]
        await home(relay)
        assert tracing.injected(relay) == 3, "the fault did not fire"
        await relay.delivered()
        assert (await admin(relay, "/readyz")).json()["reasons"] == []
        assert await relay.stop() == 0
        ids = {orjson.loads(request.body)["id"] for request in relay.receiver.requests}
    assert set(left) < ids
    assert heard(relay)[-1] == "STOP"
    assert "Traceback" not in relay.log.read_text()


async def put_right_at_the_next_start(folder, words, then, run) -> str:
    """The spill cannot be opened for a whole life of the relay; the receiver's last word."""
    async with relaying(folder / "relay", folder, command=run) as relay:
        left = leave(relay, *words)
        tracing.inject(relay, "openat", "error=EACCES", "1+", [relay.spill])
        await relay.start()
        assert await says(relay, then) == 200
        await relay.delivered(patience=PATIENCE)
        assert heard(relay) == [then]
        assert tracing.injected(relay), "the fault did not fire"
        assert await relay.stop() == 0
        tracing.stop_injecting(relay)
        await relay.start()
        await home(relay)
        await relay.delivered()
        assert await relay.stop() == 0
    assert len(heard(relay)) > len(left)
    return heard(relay)[-1]


@pytest.mark.parametrize(
    ("words", "then"),
    [
        ([(20, "STOP"), (10, "START")], "STOP"),
        pytest.param([(20, "START"), (10, "STOP")], "START", marks=pytest.mark.faults),
    ],
)
async def test_what_is_taken_in_at_the_next_start_is_not_the_last_word(tmp_path, words, then):
    assert await put_right_at_the_next_start(tmp_path, words, then, EAGER) == then


@pytest.mark.faults
async def test_control_without_the_note_the_sink_hears_an_older_word_last(tmp_path):
    words = [(20, "STOP"), (10, "START")]
    assert await put_right_at_the_next_start(tmp_path, words, "STOP", [*UNNOTED]) == "START"


# a spill that cannot be read


@pytest.mark.parametrize(
    "when", ["2", *(pytest.param(each, marks=pytest.mark.faults) for each in ("1", "2..3", "1+"))]
)
async def test_errors_of_reading_neither_refuse_callbacks_nor_stop_their_delivery(tmp_path, when):
    senders = Senders()
    async with relaying(tmp_path / "relay", tmp_path) as relay:
        left = leave(relay, *((ago, f"left-{ago}") for ago in range(9)))
        tracing.inject(relay, "pread64", "error=EIO", when, [relay.spill])
        await relay.start()
        async with Sender(relay.port, senders) as sender:
            statuses = [await sender.send(f"new-{number}", 2 + number % 5) for number in range(50)]
        assert set(statuses) == {200}
        await home(relay)
        assert tracing.injected(relay), "the fault did not fire"
        await relay.delivered()
        assert await relay.stop() == 0
        ids = {orjson.loads(request.body)["id"] for request in relay.receiver.requests}
    assert set(senders.acked) <= ids
    damaged = relay.spill.with_name(f"{relay.spill.name}.damaged")
    if when == "1+":
        assert damaged.stat().st_size
    else:
        assert set(left) < ids
        assert not damaged.exists()


# a disk that hangs


@dataclass
class Waits:
    """How long each answer took, with its status: of the relay whose disk hangs, and of another.

    The other one is beside it on the same machine: what it waits for is none of the fault's.
    """

    took: list[tuple[int, float]] = field(default_factory=list)
    beside: list[tuple[int, float]] = field(default_factory=list)

    def longest_beside(self) -> float:
        return max(seconds for _, seconds in self.beside)


async def hung(folder, fault, when, *, run=EAGER, spill=False, size=4, seconds=SHORT):
    """The store's sync hangs under load, or the spill's, too; how long each answer took, statuses.

    Then all is delivered, and nothing is missing or there twice. What waits in a spill that hangs
    comes late: its order is not looked at.
    """
    (folder / "beside").mkdir(parents=True)
    senders, waits = Senders(), Waits()
    async with (
        relaying(folder / "relay", folder, command=run) as relay,
        relaying(folder / "beside/relay", folder / "beside", command=run) as other,
    ):
        files = [relay.store, relay.store.with_name("relay.db-wal")]
        tracing.inject(relay, SYNCS, fault, when, [*files, *([relay.spill] if spill else [])])
        await relay.start()
        await other.start()
        over = asyncio.Event()
        async with asyncio.TaskGroup() as pressing, asyncio.timeout(PATIENCE + seconds):
            for who in range(size):
                pressing.create_task(presses(relay, senders, who, waits.took, over))
                pressing.create_task(presses(other, Senders(), who, waits.beside, over))
            while not tracing.injected(relay):  # told when the call is over
                await asyncio.sleep(POLL)
            await asyncio.sleep(1)
            over.set()
        other.close()
        relay.close()
        tracing.stop_injecting(relay)
        await relay.start()
        if spill:
            await home(relay)
            await relay.finish(senders)
            (await relay.verdict(senders, relay.receiver)).sound()
        else:
            await verified(relay, senders, once=())
    took = waits.took
    slow = sum(each > GOOD for _, each in took)
    print(
        f"\n{fault} at {when}: {len(took)} sent, {len(senders.acked)} acknowledged,"
        f" {slow} took more than {GOOD * 1000:g} ms, the longest {max(t for _, t in took):.2f} s"
        f" ({waits.longest_beside():.2f} s beside it),"
        f" p99 {percentile([t for _, t in took]) * 1000:.0f} ms"
    )
    return waits


async def presses(relay, senders, who, took, over) -> None:
    """Send one after the other until it is over."""
    async with Sender(relay.port, senders) as sender:
        number = 0
        while not over.is_set():
            begun = time.monotonic()
            status = await sender.send(f"{who}-{number}", 10 * who + number % 7)
            took.append((status, time.monotonic() - begun))
            number += 1
            await asyncio.sleep(POLL)


def percentile(values, share=0.99) -> float:
    """That which so many of them do not exceed."""
    return sorted(values)[int(len(values) * share)]


def delay(seconds) -> str:
    return f"delay_enter={int(seconds * 1_000_000)}"


def bounded(waits, share, *, size=4) -> None:
    """The callbacks in hand waited for so long; no other waited, and none was refused.

    Such a `share` of the others was answered soon. All but for what a relay beside it waited for.
    """
    assert {status for status, _ in waits.took} == {200}
    beside = [seconds for _, seconds in waits.beside]
    times = [seconds for _, seconds in waits.took]
    waited = [each for each in times if each > 1]
    assert waited, "nothing hung"
    assert len(waited) <= size + sum(each > 1 for each in beside)
    assert max(waited) < BOUND + SLACK + max(beside)
    others = percentile([each for each in times if each <= 1], share)
    assert others < max(GOOD, 2 * percentile(beside, share))


async def test_a_sync_that_hangs_delays_only_those_in_hand(tmp_path):
    bounded(await hung(tmp_path / "relay", delay(SHORT), "40"), 0.9)


@pytest.mark.faults
async def test_control_without_the_bound_all_wait_for_it(tmp_path):
    waits = await hung(tmp_path / "relay", delay(SHORT), "40", run=UNTIMED)
    assert max(seconds for _, seconds in waits.took) > SHORT - SLACK


@pytest.mark.faults
async def test_a_sync_that_hangs_and_then_fails_loses_nothing(tmp_path):
    waits = await hung(tmp_path / "relay", f"error=EIO:{delay(SHORT)}", "40")
    assert {status for status, _ in waits.took} == {200}
    longest = max(seconds for _, seconds in waits.took)
    assert longest < BOUND + STARTS_ANEW_WITHIN + waits.longest_beside()


@pytest.mark.faults
async def test_where_both_disks_hang_callbacks_are_refused_in_time(tmp_path):
    waits = await hung(tmp_path / "relay", delay(SHORT), "40", spill=True)
    longest = max(seconds for _, seconds in waits.took)
    assert longest < 2 * BOUND + SLACK + waits.longest_beside()


@pytest.mark.faults
@pytest.mark.timeout(900)
@pytest.mark.parametrize("when", ["20", "60", "90"])
async def test_a_sync_that_hangs_for_long_delays_only_those_in_hand(tmp_path, when):
    bounded(await hung(tmp_path / "relay", delay(LONG), when, seconds=LONG), 0.99)
