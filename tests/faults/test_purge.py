"""Old events are purged by the hundred thousand while callbacks come: those do not notice."""

import asyncio
import contextlib
import os
import re
import time

import apsw
import pytest
from arrivals import arrival, delivered
from oracle import Senders
from pressing import trickle
from relays import POLL, Relay
from stubs.receiver import Receiver

from relay.store.sqlite import SqliteStore

pytestmark = pytest.mark.alone

DAY = 24 * 3600
SEED = 1_000
"""So many old events are made by the store itself; the others are copies of them."""
RATE = 200.0
SOON, LATER = 0.5, 100_000
SHORTENED = "relay.store.sqlite.purge.LEFT_FREE=100"
AT_ONCE = ("relay.store.sqlite.purge.STEP=100000000", "relay.store.sqlite.purge.SCAN=100000000")
COPIES = """
WITH RECURSIVE copy(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM copy WHERE n < ?1)
"""
MORE_EVENTS = f"""{COPIES}
INSERT INTO events SELECT seq + n * ?2, randomblob(16), source, kind, keyword, received,
 contact + n, route, NULL, NULL, event, method, query, content_type, body, encoding, 0
 FROM copy, events
"""
MORE_DELIVERIES = f"""{COPIES}
INSERT INTO deliveries (sink, seq, contact, state, attempts, landed, settled)
 SELECT sink, seq + n * ?2, contact + n, state, attempts, landed, settled FROM copy, deliveries
"""


async def make_old(path, number) -> None:
    """A store with so many events that were delivered forty days ago."""
    received = int((time.time() - 40 * DAY) * 1e6)
    store = await SqliteStore.open(path)
    try:
        await asyncio.gather(
            *(store.add(arrival(sinks=["archive"], received=received)) for _ in range(SEED))
        )
        while claims := (await store.claim("archive", 250)).claims:
            await store.settle([delivered(claim) for claim in claims])
    finally:
        await store.close()
    with contextlib.closing(apsw.Connection(str(path))) as connection:
        connection.execute("PRAGMA synchronous = OFF").fetchall()
        for statement in (MORE_EVENTS, MORE_DELIVERIES):
            connection.execute(statement, (number // SEED - 1, SEED)).fetchall()
        connection.execute("UPDATE sinks SET cursor = ?1, delivered = ?1", (number,)).fetchall()


def purged(relay) -> int:
    """How many events, as the log says when it is over; 0 until then."""
    found = re.findall(r"purged (\d+) events", relay.log.read_text())
    return sum(map(int, found))


def purging(first, *altered) -> list[str]:
    """What starts a relay that purges so many seconds later."""
    return ["-m", "altered", f"relay.retention.FIRST={first}", *altered, "run"]


async def purge_under_load(folder, number, *, quiet, patience, altered=()):
    """The waits of callbacks for some seconds without a purge, then while one goes on.

    And what part of its length the store's file has then.
    """
    async with Receiver() as receiver:
        relay = Relay(folder, receiver.url, command=purging(LATER))
        await make_old(relay.store, number)
        await asyncio.to_thread(os.sync)  # else the disk is still busy with that
        long = relay.store.stat().st_size
        senders = Senders()
        try:
            await relay.start()
            await relay.fresh(senders)
            await relay.delivered(300)  # a sink that is new has looked at all the old ones by then
            async with trickle(relay, senders, "quiet") as without:
                await asyncio.sleep(quiet)
            assert await relay.stop() == 0
            relay.command = purging(SOON, *altered)
            await relay.start()
            begun = time.monotonic()
            async with trickle(relay, senders, "purged") as within, asyncio.timeout(patience):
                while not purged(relay):
                    await asyncio.sleep(POLL)
            took = time.monotonic() - begun
            await relay.finish(senders, patience=300)
        finally:
            relay.close()
        assert purged(relay) == number
        verdict = await relay.verdict(senders, receiver)
    short = relay.store.stat().st_size
    print(
        f"\n{number} events purged, and {long / 2**20:.0f} MiB shortened to"
        f" {short / 2**20:.0f}, in {took:.0f} s at {RATE:g} callbacks a second: p99 to"
        f" acknowledge {p99(without) * 1e3:.1f} ms without, {p99(within) * 1e3:.1f} ms with,"
        f" slowest {max(without) * 1e3:.0f} and {max(within) * 1e3:.0f} ms"
    )
    verdict.sound(once=["archive", "hook"])
    return without, within, short / long


def p99(waits) -> float:
    return sorted(waits)[int(len(waits) * 0.99)]


async def test_a_purge_takes_what_is_old_and_nothing_else(tmp_path):
    *_, left = await purge_under_load(tmp_path, 5_000, quiet=0.5, patience=50, altered=[SHORTENED])
    assert left < 1


@pytest.mark.faults
@pytest.mark.timeout(1800)
async def test_callbacks_do_not_notice_that_a_million_events_are_purged(tmp_path):
    without, within, left = await purge_under_load(tmp_path, 1_000_000, quiet=30, patience=1500)
    assert left < 1
    assert p99(within) < max(0.1, 3 * p99(without))


@pytest.mark.faults
@pytest.mark.timeout(600)
async def test_callbacks_notice_a_purge_at_one_go(tmp_path):
    without, within, _ = await purge_under_load(
        tmp_path, 100_000, quiet=10, patience=500, altered=AT_ONCE
    )
    assert max(within) > max(1.0, 3 * max(without))
