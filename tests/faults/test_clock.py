"""A wall clock that jumps by days and years: nothing is lost, nothing waits for the old time."""

import asyncio
import contextlib
import random
import time

import apsw
import pytest
from clockwork import CREDULOUS, JUMPY, WallClock
from oracle import Senders
from relays import PATIENCE, POLL, Relay, crowd
from stubs.receiver import Receiver, status

from relay.store import EventFilter
from relay.store.sqlite import SqliteStore

HOUR = 3600.0
DAY = 24 * HOUR
YEAR = 365 * DAY
JUMPS = (-2 * DAY, 0, 10 * YEAR, 0)
PUT_OFF = """
SELECT EXISTS (SELECT 1 FROM deliveries WHERE state = 2)
AND ? = EXISTS (SELECT 1 FROM sinks WHERE state ->> 'parked' IS NOT NULL)
"""
FEW = 20
"""Callbacks after each jump: more than were on their way when it came."""
LONG_ENOUGH = 5.0
"""Seconds in which it would go, if it went at all."""
FAILS, PARKS = status(503), status(429, {"retry-after": "1"})
WORDS = (status(200), status(200), FAILS, PARKS)
"""What the receiver says during the jumps, so that retries and parked sinks are there at each."""


async def jumped(folder, jumps, *, kills=0.0, seed=0):
    """A relay under load whose clock jumps; what the senders know, the times, the oracle's word."""
    clock, chance = WallClock(folder), random.Random(seed)
    async with Receiver() as receiver:
        receiver.otherwise = any_of(WORDS, chance)
        relay = Relay(folder, receiver.url, command=JUMPY)
        try:
            async with crowd(relay, pause=0.03) as senders:
                await relay.start()
                for jump in jumps:
                    await asyncio.sleep(chance.uniform(0.5, 1.0))
                    clock.jump(jump)
                    before = len(senders.acked)
                    if chance.random() < kills:
                        relay.kill()
                        await relay.start()
                    async with asyncio.timeout(PATIENCE):
                        while len(senders.acked) <= before + FEW:
                            await asyncio.sleep(POLL)
                await asyncio.sleep(0.5)
            receiver.otherwise = status(200)
            begun = time.monotonic()
            await relay.delivered(PATIENCE + 3 * len(jumps))
            took = time.monotonic() - begun
            await relay.finish(senders)
        finally:
            relay.close()
        verdict = await relay.verdict(senders, receiver)
    times = await received(relay)
    print(
        f"\n{len(jumps)} jumps, {relay.lives - 1} restarts, seed {seed}: {len(senders.acked)}"
        f" acknowledged, {verdict.found} stored, {verdict.lost()} lost, the rest delivered"
        f" within {took:.1f} s"
    )
    assert len(senders.acked) > FEW * len(jumps)
    return times, verdict


def any_of(words, chance):
    async def answer(scope, send):
        await chance.choice(words)(scope, send)

    return answer


async def received(relay) -> list[float]:
    """When the events came, by the relay's clock, in seconds from now."""
    store = await SqliteStore.open(relay.store)
    try:
        rows = await store.events_after(EventFilter(), after=0, limit=100_000)
    finally:
        await store.close()
    return [row.received / 1e6 - time.time() for row in rows]


def fired(times) -> None:
    """The relay did believe what it was told."""
    assert min(times) < -1.9 * DAY
    assert max(times) > 9 * YEAR


async def test_jumps_of_the_clock_lose_and_halt_nothing(tmp_path):
    times, verdict = await jumped(tmp_path, JUMPS, seed=1)
    fired(times)
    verdict.sound(once=["archive"])


@pytest.mark.faults
@pytest.mark.timeout(600)
async def test_many_jumps_of_the_clock_lose_and_halt_nothing(tmp_path):
    """With restarts, so that times are read anew that another clock has written."""
    seed = random.randrange(2**32)
    times, verdict = await jumped(tmp_path, JUMPS * 10, kills=0.5, seed=seed)
    fired(times)
    verdict.sound(once=["archive"])


# what waits when the clock jumps back


async def held_in_the_future(
    folder, answer, *, restart, ahead=10 * YEAR, command=JUMPY, patience=PATIENCE
) -> bool:
    """A delivery has to wait, at a time that is far ahead; whether it goes when it is now again."""
    clock = WallClock(folder)
    clock.jump(ahead)
    async with Receiver() as receiver:
        receiver.otherwise = answer
        relay = Relay(folder, receiver.url, archive=False, command=command)
        try:
            await relay.start()
            senders = Senders()
            await relay.fresh(senders)
            await put_off(relay, parked=answer is PARKS)
            if restart:
                relay.kill()
            clock.jump(0)
            receiver.otherwise = status(200)
            if restart:
                await relay.start()
            with contextlib.suppress(TimeoutError):
                await relay.delivered(patience)
                return True
        finally:
            relay.close()
    return False


async def put_off(relay, *, parked) -> None:
    """Wait until it is on disk that a delivery has to wait and, with `parked`, its sink."""
    with contextlib.closing(apsw.Connection(str(relay.store))) as connection:
        async with asyncio.timeout(PATIENCE):
            while not connection.execute(PUT_OFF, [parked]).get:
                await asyncio.sleep(POLL)


@pytest.mark.parametrize("ahead", [pytest.param(10 * YEAR, marks=pytest.mark.faults), 3 * HOUR])
@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("answer", [FAILS, PARKS])
async def test_what_waits_for_the_future_goes_when_the_clock_is_back(
    tmp_path, answer, restart, ahead
):
    assert await held_in_the_future(tmp_path, answer, restart=restart, ahead=ahead)


@pytest.mark.parametrize("ahead", [pytest.param(10 * YEAR, marks=pytest.mark.faults), 3 * HOUR])
@pytest.mark.parametrize("answer", [pytest.param(FAILS, marks=pytest.mark.faults), PARKS])
async def test_what_waits_for_the_future_waits_for_it_without_the_protection(
    tmp_path, answer, ahead
):
    assert not await held_in_the_future(
        tmp_path, answer, restart=True, ahead=ahead, command=CREDULOUS, patience=LONG_ENOUGH
    )
