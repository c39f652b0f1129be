"""The store fails in all the ways that it can, under load: nothing is refused, nothing is lost.

Each comes with a control: the same relay without the spill refuses callbacks or does not start.
"""

import asyncio
import contextlib
import itertools
import os
import socket
import time
from collections import Counter

import apsw
import httpx
import pytest
import tracing
from disks import small_disk
from manager import listening
from olderstore import make_older
from oracle import Senders
from pressing import press
from relays import PATIENCE, POLL, command, within
from spilling import admin, home, in_order, relaying, sends, verified

from relay.spill import file
from relay.state_directory import StateDirectory

pytestmark = pytest.mark.timeout(180)

OPENS_WITHIN = 15.0
HEALS_WITHIN = 5.0
BREAKS = 2
RESTART_SEC = 1.0
SLOW = 10_000_000
"""Microseconds that a sync of a copy takes: far longer than callbacks wait for the store."""
BIG = 20_000
FEW = 2
"""Of forty callbacks, those that a busy machine holds up."""
PAGE = 4096


# a full disk, and a spill on another


async def filled(tmp_path, *, spilling):
    """Fill the store's disk, and go on sending; what the senders saw, and the relay's end."""
    senders = Senders()
    with small_disk(tmp_path / "disk") as (folder, grow):
        async with relaying(folder, tmp_path, spilling=spilling) as relay:
            await relay.start()
            statuses = await sends(relay, senders, range(600), padding=BIG)
            if spilling:
                spilled = (await relay.status())["spill"]
                assert spilled > 100
                assert (await admin(relay, "/readyz")).json()["reasons"]
                shown = await asyncio.to_thread(command, relay, "status")
                assert f"{spilled} callbacks could not be stored so far" in shown.stdout
            grow()
            if spilling:
                assert await within(HEALS_WITHIN, lambda: not relay.spill.exists())
            else:
                while 503 in await sends(relay, senders, range(1000, 1001)):
                    await asyncio.sleep(POLL)
            await verified(relay, senders)
    return statuses, len(senders.acked)


async def test_on_a_full_disk_callbacks_go_to_the_spill_on_another(tmp_path):
    statuses, acked = await filled(tmp_path, spilling=True)
    print(f"\nfull disk: {len(statuses)} sent, {acked} acknowledged and found, none refused")
    assert set(statuses) == {200}


async def test_control_on_a_full_disk_without_the_spill_callbacks_are_refused(tmp_path):
    statuses, _ = await filled(tmp_path, spilling=False)
    print(f"\ncontrol: {statuses.count(503)} of {len(statuses)} refused")
    assert statuses.count(503) > 20


# a disk that fails


async def breaking(folder, when, *, spilling=True):
    """The store meets EIO under load, in each life of the process; what failed of the callbacks.

    A relay that ends is started again a second later, as by systemd, which holds no socket here.
    """
    tracing.needed()
    folder.mkdir()
    senders, failures, stop = Senders(), [], asyncio.Event()
    async with relaying(folder / "relay", folder, spilling=spilling) as relay:
        files = [relay.store, relay.store.with_name("relay.db-wal")]
        tracing.inject(relay, "fdatasync", "error=EIO", when, files)
        await relay.start()
        number = relay.process.pid
        crowd = press(relay, senders, failures, stop, rest=0.05)
        for times in range(1, BREAKS + 1):
            await until(lambda times=times: broke(relay) >= times)
            if spilling:
                await until(lambda: file.count(relay.spill))  # else nobody needed it
            else:
                assert await relay.ended() == 1, relay.last_words()
                assert tracing.injected(relay), "the fault did not fire"
                await asyncio.sleep(RESTART_SEC)
                relay.spawn()
        if spilling:
            enough = len(senders.acked) + 50
            await until(lambda: len(senders.acked) > enough)
        stop.set()
        await asyncio.gather(*crowd)
        if spilling:
            assert tracing.injected(relay) >= BREAKS, "the fault did not fire"
            assert relay.process.pid == number
            assert await relay.stop() == 0, relay.last_words()
        relay.close()
        tracing.stop_injecting(relay)
        await relay.start()
        await verified(relay, senders, once=())
    print(
        f"\nEIO at {when}: broke {BREAKS} times, {len(senders.sent)} sent,"
        f" {len(senders.acked)} acknowledged, {len(failures)} failed"
    )
    return failures


def broke(relay) -> int:
    """How often the store broke."""
    return relay.log.read_text().count('"logger":"relay.store","message":"the store failed: ')


def takes_connections(relay) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", relay.port)):
        return True
    return False


async def until(happened) -> None:
    async with asyncio.timeout(PATIENCE):
        while not happened():
            await asyncio.sleep(POLL)


@pytest.mark.parametrize("when", ["30", "45+"])
async def test_a_store_that_breaks_again_and_again_costs_no_callback(tmp_path, when):
    """The process goes on without it, tries it again, and imports what has come meanwhile."""
    assert not await breaking(tmp_path / "with", when)


async def test_control_without_the_spill_a_store_that_breaks_costs_callbacks(tmp_path):
    """In each of its lives: those in hand, and those that come before the next."""
    failures = await breaking(tmp_path / "without", "30", spilling=False)
    assert 503 in failures
    assert any("refused" in str(each) for each in failures)


async def test_a_spill_that_fails_acknowledges_nothing_that_it_does_not_hold(tmp_path):
    """The store's disk is full, and the spill's fails now and then."""
    tracing.needed()
    senders = Senders()
    with small_disk(tmp_path / "disk") as (folder, grow):
        async with relaying(folder, tmp_path) as relay:
            relay.folder = tmp_path  # for strace's own log
            tracing.inject(relay, "fdatasync,pwrite64", "error=EIO", "30+9", [relay.spill])
            await relay.start()
            statuses = await sends(relay, senders, range(600), padding=BIG)
            assert tracing.injected(relay), "the fault did not fire"
            grow()
            await verified(relay, senders)
    print(f"\nEIO in the spill: {statuses.count(503)} refused, {len(senders.acked)} acknowledged")
    assert set(statuses) == {200, 503}


# a store that takes long to open


def make_slow(relay):
    """An older store, and a disk that is slow to take the copy that is made of it; its name."""
    tracing.needed()
    make_older(relay.store)
    copy = StateDirectory.around(relay.store).before_schema(2)
    partial = copy.with_name(f".{copy.name}.partial")
    tracing.inject(relay, "fdatasync", f"delay_enter={SLOW}", "1", [partial])
    return copy


async def migrated(tmp_path, *, spilling):
    """Start on an older store; whether callbacks were answered before it was new, what was told."""
    senders = Senders()
    async with relaying(tmp_path / "relay", tmp_path, spilling=spilling) as relay:
        copy = make_slow(relay)
        async with listening(tmp_path) as manager:
            relay.environment |= manager.environ
            relay.spawn()
            await until(lambda: takes_connections(relay))
            statuses = await sends(relay, senders, range(1))  # while the copy is made
            answered_early = not copy.exists()
            told = manager.count("EXTEND_TIMEOUT_USEC"), manager.count("READY")
            statuses += await sends(relay, senders, range(1, 20))
            await manager.hear("READY", 1)
            assert copy.exists()
            statuses += await sends(relay, senders, range(20, 40))
            await home(relay)
            assert await relay.stop() == 0
        assert "DELAYED" in (relay.folder / "strace.log").read_text(), "the fault did not fire"
        assert "Traceback" not in relay.log.read_text()
        await in_order(relay, senders)
    assert set(statuses) == {200}
    return answered_early, told


async def test_while_a_store_gets_a_new_schema_callbacks_are_taken(tmp_path):
    early, told = await migrated(tmp_path, spilling=True)
    assert early
    assert told == (1, 0), "systemd is to wait, and is told when the store is there"


async def test_a_stop_waits_for_no_new_schema_and_loses_nothing(tmp_path):
    senders = Senders()
    async with relaying(tmp_path / "relay", tmp_path) as relay:
        copy = make_slow(relay)
        relay.spawn()
        await until(lambda: takes_connections(relay))
        statuses = await sends(relay, senders, range(20))
        assert await relay.stop() == 0
        assert not copy.exists()
        assert file.count(relay.spill) == 20
        tracing.stop_injecting(relay)
        await relay.start()
        await home(relay)
        assert await relay.stop() == 0
        assert "Traceback" not in relay.log.read_text()
        await in_order(relay, senders)
    assert set(statuses) == {200}


async def test_control_without_the_spill_they_wait_until_it_has_it(tmp_path):
    early, _ = await migrated(tmp_path, spilling=False)
    assert not early


# a store that cannot be opened


def corrupt(relay):
    """The store becomes another file's beginning; gives what makes it well again."""
    good = relay.store.with_name("good.db")
    relay.store.rename(good)
    relay.store.write_bytes(b"this is no database at all" * 1000)
    return lambda: good.replace(relay.store)


def unmake(relay):
    """Its folder is a file; gives what makes it well again."""
    good = relay.folder / "good"
    relay.store.parent.rename(good)
    relay.store.parent.write_text("no folder")

    def mend():
        relay.store.parent.unlink()
        good.rename(relay.store.parent)

    return mend


def outdate(relay):
    """A newer release has written it."""
    was = _pragma(relay, "user_version")
    _pragma(relay, "user_version = 9999")
    return lambda: _pragma(relay, f"user_version = {was}")


def _pragma(relay, text):
    connection = apsw.Connection(str(relay.store))
    try:
        return connection.execute(f"PRAGMA {text}").get
    finally:
        connection.close()


def hold(relay):
    """Another program has it for itself, and does not let go."""
    connection = apsw.Connection(str(relay.store))
    for statement in ("PRAGMA locking_mode = EXCLUSIVE", "BEGIN IMMEDIATE", "COMMIT"):
        connection.execute(statement).fetchall()
    return connection.close


@pytest.mark.parametrize("harm", [corrupt, unmake, outdate, hold])
async def test_a_relay_whose_store_cannot_be_opened_takes_callbacks_all_the_same(tmp_path, harm):
    senders = Senders()
    async with relaying(tmp_path / "relay", tmp_path) as relay:
        await relay.start()
        statuses = await sends(relay, senders, range(10))
        assert await relay.stop() == 0
        mend = harm(relay)
        relay.spawn()
        await takes_callbacks(relay)
        number = relay.process.pid
        statuses += await sends(relay, senders, range(10, 60))
        answer = await admin(relay, "/readyz")
        assert answer.status_code == 503
        (reason,) = answer.json()["reasons"]
        assert "50 of them wait" in reason
        assert "relay_spill_records 50.0" in (await admin(relay, "/metrics")).text
        asked = await asyncio.to_thread(command, relay, "status")
        assert asked.returncode == 1
        assert "Traceback" not in asked.stderr
        mend()
        statuses += await sends_until_home(relay, senders)
        assert relay.process.pid == number
        assert relay.process.poll() is None
        await relay.answers()
        await verified(relay, senders)
    print(f"\n{harm.__name__}: {len(statuses)} sent, {len(senders.acked)} acknowledged, 0 missing")
    assert set(statuses) == {200}


@pytest.mark.faults
@pytest.mark.timeout(1800)
async def test_whichever_page_of_the_store_is_rubbish_no_callback_is_refused(tmp_path):
    """A relay that opens it may meet the page later, and goes on without it, by the spill."""
    async with relaying(tmp_path / "relay", tmp_path) as relay:
        await relay.start()
        await sends(relay, Senders(), range(100))
        await relay.delivered()
        assert await relay.stop() == 0
        good = relay.store.read_bytes()
        states = Counter()
        for page in range(len(good) // PAGE):
            for rest in (relay.spill, *relay.store.parent.glob("relay.db-*")):
                rest.unlink(missing_ok=True)
            relay.store.write_bytes(
                good[: page * PAGE] + os.urandom(PAGE) + good[(page + 1) * PAGE :]
            )
            if not await relay.up_or_ended():
                states["ended at once"] += 1
                continue
            statuses = await sends(relay, senders := Senders(), range(3))
            spilled = file.count(relay.spill)
            relay.close()
            states["spilled" if spilled else "stored"] += 1
            assert 503 not in statuses, page
            assert statuses.count(200) == len(senders.acked)
    print(f"\nof {sum(states.values())} pages: {dict(states)}")
    assert states["spilled"]


async def takes_callbacks(relay) -> None:
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                answer = await admin(relay, "/readyz")
            except httpx.TransportError:
                assert relay.process.poll() is None, relay.last_words()
                await asyncio.sleep(POLL)
            else:
                assert answer.json()["store"]["state"] == "unopened"
                return


async def sends_until_home(relay, senders) -> list[int]:
    """Send on, over the start anew, until the spill is gone and a little longer."""
    statuses = []
    begun = time.monotonic()
    for number in itertools.count(100):
        statuses += await sends(relay, senders, [number])
        if not relay.spill.exists():
            break
        assert time.monotonic() - begun < OPENS_WITHIN + PATIENCE
        await asyncio.sleep(POLL)
    print(f"\nthe store was back after {time.monotonic() - begun:.1f} s")
    return statuses + await sends(relay, senders, range(number + 1, number + 20))


async def test_control_a_relay_without_rescue_ends(tmp_path):
    async with relaying(tmp_path / "relay", tmp_path, spilling=False) as relay:
        await relay.start()
        assert await relay.stop() == 0
        corrupt(relay)
        assert not await relay.up_or_ended()
        assert await relay.ended() == 1


# a store that another program writes to for long


async def locked(tmp_path, *, spilling):
    """Send while another program holds the lock; the statuses, and how long each took."""
    senders, statuses, took = Senders(), [], []
    async with relaying(tmp_path / "relay", tmp_path, spilling=spilling) as relay:
        await relay.start()
        other = apsw.Connection(str(relay.store))
        other.set_busy_timeout(10_000)
        other.execute("BEGIN IMMEDIATE").fetchall()
        for number in range(40):
            begun = time.monotonic()
            statuses += await sends(relay, senders, [number])
            took.append(time.monotonic() - begun)
        other.close()
        while await sends(relay, senders, range(100, 101)) != [200]:
            await asyncio.sleep(POLL)
        await verified(relay, senders)
    return statuses, took


async def test_a_lock_that_another_program_holds_delays_the_first_callback_alone(tmp_path):
    statuses, took = await locked(tmp_path, spilling=True)
    assert set(statuses) == {200}
    assert waited(took) <= FEW, "the others have waited for the lock, too"


async def test_control_without_the_spill_a_lock_delays_and_refuses(tmp_path):
    statuses, took = await locked(tmp_path, spilling=False)
    assert set(statuses) == {503}
    assert waited(took) <= FEW, "refused at once, as it is known to be locked"


def waited(took) -> int:
    """How many of the others took half as long as the first, which waited for the lock."""
    first, *others = took
    print(f"\nthe first took {first:.1f} s, the others {max(others):.2f} s at most")
    return sum(each > first / 2 for each in others)


# a kill on the way home


async def killed_on_the_way(folder, calls, number) -> bool:
    """Kill the relay at this call while it reads a spill; whether it was reached."""
    tracing.needed()
    folder.mkdir()
    senders = Senders()
    async with relaying(folder / "relay", folder) as relay:
        await relay.start()
        await sends(relay, senders, range(5))
        assert await relay.stop() == 0
        mend = corrupt(relay)
        relay.spawn()
        await takes_callbacks(relay)
        assert set(await sends(relay, senders, range(5, 405))) == {200}
        relay.kill()
        mend()
        tracing.inject(relay, calls, "signal=KILL", number)
        relay.spawn()
        async with asyncio.timeout(PATIENCE):
            while relay.spill.exists() and relay.process.poll() is None:
                await asyncio.sleep(POLL)
        killed = relay.process.poll() == -9
        relay.close()
        tracing.stop_injecting(relay)
        await relay.start()
        await verified(relay, senders, once=())  # what was in flight goes to the sink again
    print(f"\nkilled at {calls} {number}: {killed}")
    return killed


@pytest.mark.parametrize(("calls", "number"), [("fdatasync", 6), ("pwrite64", 40)])
async def test_a_kill_on_the_way_home_loses_nothing_and_doubles_nothing(tmp_path, calls, number):
    assert await killed_on_the_way(tmp_path / "relay", calls, number)


@pytest.mark.faults
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("calls", "numbers"),
    [("fdatasync,fsync", range(1, 25)), ("pwrite64", range(1, 160, 9)), ("unlink", range(1, 6))],
)
async def test_a_kill_anywhere_on_the_way_home(tmp_path, calls, numbers):
    killed = [await killed_on_the_way(tmp_path / f"{n}", calls, n) for n in numbers]
    assert True in killed


@pytest.mark.faults
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("lasting", ["", "+"])
async def test_whenever_a_store_breaks_nothing_is_refused(tmp_path, lasting):
    for number in range(20, 60, 2):
        assert not await breaking(tmp_path / f"{number}", f"{number}{lasting}")
