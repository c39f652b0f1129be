"""A batch that takes long is no reason for others to wait: they have their turn within it."""

import asyncio
import contextlib
import time

from workers import sink_config

from relay.clock import SystemClock
from relay.delivery.sender import Sender
from relay.event import Event
from relay.outcome import Delivered
from relay.sink import Sink
from relay.slices import SLICE, Slices
from relay.store import Claim
from relay.templating.expressions import Compiler
from relay.templating.limits import MOST_STEPS

BATCH = 80
COSTLY = f"{{% for a in range({MOST_STEPS // 4}) %}}{{% endfor %}}"


@contextlib.asynccontextmanager
async def watched():
    """Counts the turns that others have."""
    turns = []

    async def watch():
        while True:
            turns.append(time.monotonic())
            await asyncio.sleep(0)

    watching = asyncio.create_task(watch())
    try:
        yield turns
    finally:
        watching.cancel()


async def spend(slices, seconds, pieces):
    for _ in range(pieces):
        end = time.perf_counter() + seconds / pieces
        while time.perf_counter() < end:
            pass
        if slices is not None:
            await slices.rest()


async def test_others_have_a_turn_after_each_slice():
    async with watched() as seen:
        await spend(Slices(), 20 * SLICE, 100)
        assert 10 <= len(seen) <= 100


async def test_control_without_slices_others_wait_until_all_is_done():
    async with watched() as seen:
        await spend(None, 20 * SLICE, 100)
        assert seen == []


async def test_short_work_is_not_cut():
    async with watched() as seen:
        slices = Slices()
        await slices.rest()
        assert seen == []


class Batches(Sink):
    """Takes a batch, and notes how many turns others had before."""

    max_batch = BATCH

    def __init__(self, seen):
        super().__init__("crm", None, None, None)
        self._seen = seen
        self.turns = 0

    async def send_batch(self, deliveries):
        self.turns = len(self._seen)
        return [Delivered() for _ in deliveries]


def claims():
    event = Event("1", "/callbacks/a", "com.sumotext.message", None, "", {"fields": {}})
    for seq in range(BATCH):
        yield Claim(
            sink="crm",
            seq=seq,
            event=event,
            attempt=1,
            urgent=False,
            replayed=False,
            stale=False,
            opted_out=False,
            failed_at=None,
            contact=seq,
        )


async def test_a_batch_of_costly_maps_lets_others_go_on():
    """All maps of a batch are rendered before it is sent."""
    mapping = Compiler().mapping({"a": COSTLY})
    async with watched() as seen:
        sink = Batches(seen)
        results = await Sender(sink_config(map=mapping), sink, SystemClock()).send(list(claims()))
    assert [type(result.outcome) for result in results] == [Delivered] * BATCH
    assert sink.turns >= 3
