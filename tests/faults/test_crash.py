"""A crash just before or after each named step: of an arrival, a delivery, a stop, a migration,
and of the way home from the spill.
"""

import contextlib
import signal

import apsw
import pytest
from olderstore import EVENTS, make_older
from oracle import Senders, in_store, integrity
from relays import Relay
from spills import callback
from stubs.receiver import Receiver

from relay.spill.file import SpillFile
from relay.spill.records import Spilled, encode
from relay.store.sqlite import SqliteStore

ENDS_WITHIN = 20.0
LATER = 12
"""The number of the call that is the last, where there are many."""
STORE = "relay.store.sqlite.store.SqliteStore"
UNDER_LOAD = {
    "relay.server.ingress.CallbackEndpoint._read_callback": "a callback comes",
    "relay.store.sqlite.ingest.add_all": "it is written",
    "relay.store.sqlite.database.Database._after_commit": "a commit is on disk",
    f"{STORE}.add": "its event is on disk",
    "relay.spill.failover.FailoverStore.receive": "it is to be answered",
    "relay.store.sqlite.claim._claim_rows": "deliveries are claimed",
    "relay.delivery.sender.Sender.send": "they are sent",
    "relay.delivery.worker.SinkWorker._settle": "what became of them is known",
    "relay.store.sqlite.settle._settle_delivered": "that is written",
    "relay.delivery.queue.DeliveryQueue.settle": "it is on disk",
}
AT_A_STOP = {
    "relay.delivery.worker.SinkWorker.stop": "a worker stops",
    "relay.store.sqlite.settle.put_back_all": "what is in flight is put back",
    f"{STORE}.close": "the store is closed",
}
ON_THE_WAY_HOME = {
    "relay.spill.file.SpillFile.open": "the spill is opened",
    "relay.spill.file.SpillFile.read": "some of it is read",
    f"{STORE}.known": "what the store has of it is known",
    "relay.store.sqlite.ingest.add_all": "some of it is written",
    "relay.spill.replayer.Replayer.replay": "some of it is stored",
    "relay.spill.queue.SpillQueue.remove": "the spill is removed",
    "relay.spill.file.SpillFile.remove": "its file is removed",
}
AT_A_MIGRATION = {
    "relay.store.sqlite.migrate.migrate": "the store is migrated",
    "relay.store.sqlite.backup.back_up_before": "it is copied before",
    "relay.store.sqlite.settle.put_back_after_crash": "what was in flight is put back",
}
SHORT = {
    ("relay.store.sqlite.ingest.add_all", "after"),
    ("relay.delivery.sender.Sender.send", "after"),
    ("relay.spill.queue.SpillQueue.remove", "before"),
    ("relay.store.sqlite.migrate.migrate", "before"),
}
"""Those that are tried each time."""


def steps(of):
    """Each step of these, before and after; all but a few in the long form only."""
    return [
        pytest.param(
            name,
            when,
            marks=[] if (name, when) in SHORT else [pytest.mark.faults],
            id=f"{when} {says}",
        )
        for name, says in of.items()
        for when in ("before", "after")
    ]


def doomed(folder, receiver, name, when, number, *options):
    """A relay whose next life ends there; the later ones are as usual."""
    relay = Relay(folder, receiver.url)
    relay.usual = relay.command
    relay.command = ["-m", "doomed", f"{name}:{when}:{number}", *options, "run"]
    return relay


async def killed(relay) -> None:
    """Wait for the end, and see that it was the one that was meant."""
    assert await relay.ended() == -signal.SIGKILL, relay.last_words()
    assert f"killed at {relay.command[2]}" in relay.last_words()
    relay.command = relay.usual


async def crash_under_load(folder, name, when, *options):
    async with Receiver() as receiver:
        relay = doomed(folder, receiver, name, when, LATER, *options)
        try:
            await relay.start()
            senders = await relay.under_load(ENDS_WITHIN)
            await killed(relay)
            await relay.finish(senders)
        finally:
            relay.close()
        verdict = await relay.verdict(senders, receiver)
    print(f"\n{when} {name}: {len(senders.acked)} acknowledged, {verdict.lost()} lost")
    return verdict


@pytest.mark.parametrize(("name", "when"), steps(UNDER_LOAD))
async def test_a_crash_at_any_step_of_an_event_loses_nothing(tmp_path, name, when):
    (await crash_under_load(tmp_path, name, when)).sound(once=["archive"])


async def test_a_crash_loses_events_that_are_acknowledged_before_the_commit(tmp_path):
    step = "relay.store.sqlite.ingest.add_all", "before"
    assert (await crash_under_load(tmp_path, *step, "--hasty")).lost()


@pytest.mark.parametrize(("name", "when"), steps(AT_A_STOP))
async def test_a_crash_at_any_step_of_a_stop_loses_nothing(tmp_path, name, when):
    async with Receiver() as receiver:
        relay = doomed(tmp_path, receiver, name, when, 1)
        try:
            await relay.start()
            senders = await relay.under_load(0.5)
            relay.process.terminate()
            await killed(relay)
            await relay.finish(senders)
        finally:
            relay.close()
        (await relay.verdict(senders, receiver)).sound(once=["archive"])


# the spill


SPILLED = 300
"""Callbacks: more than go to the store at once."""


def spill(relay) -> Senders:
    """Leave a spill, as of a life that had no store."""
    senders = Senders()
    file = SpillFile(relay.store.with_name("relay.db.spill"))
    file.open()
    for number in range(SPILLED):
        made = Spilled(
            f"01a20000-0000-7000-8000-{number:012x}", callback(number, f"spilled-{number}")
        )
        file.append([encode(made)])
        senders.sent.add(f"spilled-{number}")
        senders.acked[made.id] = f"spilled-{number}"
    file.close()
    return senders


@pytest.mark.parametrize(("name", "when"), steps(ON_THE_WAY_HOME))
async def test_a_crash_on_the_way_home_from_the_spill_loses_nothing(tmp_path, name, when):
    async with Receiver() as receiver:
        relay = doomed(tmp_path, receiver, name, when, 1)
        senders = spill(relay)
        try:
            relay.spawn()
            await killed(relay)
            await relay.start()
            await relay.finish(senders)
        finally:
            relay.close()
        (await relay.verdict(senders, receiver)).sound(once=["archive"])


# the migration


def events_of(path) -> list[str]:
    with contextlib.closing(apsw.Connection(str(path))) as connection:
        rows = connection.execute("SELECT event FROM events ORDER BY seq").fetchall()
    return [bytes(event) if isinstance(event, bytes) else event.encode() for (event,) in rows]


async def migrated(relay, before) -> None:
    """Start it as usual: all is there, and a fresh event passes."""
    senders = Senders()
    await relay.start()
    await relay.fresh(senders)
    assert await relay.stop() == 0, relay.last_words()
    assert integrity(relay.store) == "ok"
    assert events_of(relay.store)[: len(before)] == before
    store = await SqliteStore.open(relay.store)
    try:
        stored = await in_store(store)
    finally:
        await store.close()
    assert stored[len(before) :] == list(senders.acked.items())


@pytest.mark.parametrize(("name", "when"), steps(AT_A_MIGRATION))
async def test_a_crash_at_any_step_of_a_migration_loses_nothing(tmp_path, name, when):
    async with Receiver() as receiver:
        relay = doomed(tmp_path, receiver, name, when, 1)
        before = events_of(make_older(relay.store))
        assert len(before) == EVENTS
        try:
            relay.spawn()
            await killed(relay)
            await migrated(relay, before)
        finally:
            relay.close()
