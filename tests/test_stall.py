"""A disk that hangs: callbacks are kept elsewhere within a bound, and each is one event."""

import asyncio
import os
import threading
import time
from contextlib import asynccontextmanager

import apsw
import pytest
from spills import (
    PATIENCE,
    Hang,
    callback,
    failover_parts,
    nonsense,
    passed_by,
    until,
    with_a_spill,
)

from relay.spill.disk import SharedTimeout
from relay.spill.failover import FailoverStore
from relay.spill.queue import SpillQueue
from relay.spill.records import Spilled
from relay.store import StoreFull, StoreStalled
from relay.store.sqlite import ingest as module

BOUND = 0.3
AT_ONCE = 0.25
"""Seconds that a callback may take while the store is known to hang, on a busy machine."""


@asynccontextmanager
async def hanging(folder, error=None):
    """A FailoverStore whose store hangs, until the test ends that or itself."""
    async with failover_parts(folder, timeout=BOUND) as parts:
        hang = Hang(parts, error)
        try:
            yield parts, hang
        finally:
            hang.end()
            await asyncio.gather(hang.work, return_exceptions=True)


async def timed(work) -> tuple[float, object]:
    begun = time.monotonic()
    result = await work
    return time.monotonic() - begun, result


async def test_only_the_first_callback_waits_and_only_for_so_long(tmp_path):
    async with hanging(tmp_path) as (parts, hang):
        first, _ = await timed(parts.send(1))
        assert BOUND <= first < BOUND + 1
        for number in range(20):
            later, _ = await timed(parts.send(number))
            assert later < AT_ONCE
        assert parts.failover.records() == 21
        assert "has not answered for 0.3 s" in parts.failover.notices()[0]
        hang.end()
        await parts.home()
        assert await parts.store.event_count() == 21


async def test_without_the_bound_they_wait_for_as_long_as_it_hangs(tmp_path):
    """The control."""
    async with failover_parts(tmp_path, timeout=PATIENCE) as parts:
        hang = Hang(parts)
        sent = asyncio.create_task(parts.send(1))
        await asyncio.sleep(3 * BOUND)
        assert not sent.done()
        hang.end()
        await sent


async def test_what_is_in_the_store_after_all_is_one_event(tmp_path):
    """The commit that was given up comes to its end: the spill's line is no second event."""
    async with hanging(tmp_path) as (parts, hang):
        together = (parts.send(number % 2) for number in range(6))
        sent = await asyncio.gather(*together)
        sent += [await parts.send(number % 2, smsid=f"m{number}") for number in range(6)]
        kept = await parts.failover.quarantine(nonsense(), 422, "mobile is missing")
        hang.end()
        await parts.home()
        sent.append(await parts.send(9))
        assert await parts.stored() == sent
        assert [each.id for each in await parts.store.quarantined()] == [kept]


async def test_what_is_quarantined_twice_is_there_once(tmp_path):
    async with hanging(tmp_path) as (parts, hang):
        kept = await parts.failover.quarantine(nonsense(), 422, "mobile is missing")
        hang.end()
        await parts.home()
        assert [each.id for each in await parts.store.quarantined()] == [kept]


async def test_they_keep_their_order_whoever_waits_longest(tmp_path):
    """One that has only just come must not overtake those that wait, by way of the spill."""
    async with hanging(tmp_path) as (parts, hang):
        sending = []
        for number in range(12):
            sending.append(asyncio.create_task(parts.send(1, f"{number}")))
            await asyncio.sleep(BOUND / 8)
        sent = await asyncio.gather(*sending)
        hang.end()
        await parts.home()
        assert await parts.stored() == sent


async def test_a_repeat_of_what_hangs_is_the_same_message(tmp_path):
    async with hanging(tmp_path) as (parts, hang):
        first, second = await asyncio.gather(*(parts.send(1, smsid="m1") for _ in range(2)))
        third = await parts.send(1, smsid="m1")
        hang.end()
        await parts.home()
        assert await parts.stored() == [first]
        assert len({first, second, third}) == 3


async def test_a_message_whose_commit_fails_in_the_end_is_not_taken_for_a_repeat(tmp_path):
    """All of the group is rolled back; the spill has it."""
    async with hanging(tmp_path, apsw.FullError("no room")) as (parts, hang):
        sent = [await parts.send(number, smsid=f"m{number}") for number in range(3)]
        hang.end()
        await parts.home()
        assert await parts.stored() == sent


async def test_where_the_hanging_commit_breaks_the_store_the_spill_has_them(tmp_path):
    async with failover_parts(tmp_path, timeout=BOUND) as parts:
        hang = Hang(parts, apsw.IOError("disk I/O error"))
        sent = [await parts.send(number, smsid=f"m{number}") for number in range(3)]
        hang.end()
        await asyncio.gather(hang.work, return_exceptions=True)
        await until(lambda: not parts.store.alive())
        sent.append(await parts.send(5))
    async with failover_parts(tmp_path) as parts:  # as the next image does
        await parts.home()
        assert await parts.stored() == sent


async def test_a_batch_that_is_refused_late_is_not_stored_a_second_time(tmp_path, monkeypatch):
    """Its parts would be tried one by one, after the spill has been looked up."""
    async with hanging(tmp_path) as (parts, hang):
        real = module.add_all

        def choosy(connection, writer, arrivals):
            if len(arrivals) > 1:
                raise ValueError("not together")
            time.sleep(0.05)  # long enough for the spill's ids to be looked up
            return real(connection, writer, arrivals)

        monkeypatch.setattr(module, "add_all", choosy)
        sent = await asyncio.gather(*(parts.send(number) for number in range(3)))
        await until(parts.failover._replaying.locked)
        await asyncio.sleep(0.05)  # it waits for the store by now
        hang.end()
        await parts.home()
        assert sorted(await parts.stored()) == sorted(sent)
        assert await parts.store.quarantine_count() == 0


async def test_a_store_that_hangs_while_the_last_of_the_spill_comes_home(tmp_path):
    """New callbacks wait for that last part, but not for the disk."""
    async with with_a_spill(tmp_path, timeout=BOUND) as (parts, sent, disk):
        hangs = []

        async def replay_rest(replayer):
            if not hangs:
                sent.append(await parts.send(1))
                hangs.append(Hang(parts))
            return await FailoverStore._replay_rest(parts.failover, replayer)

        parts.failover._replay_rest = replay_rest
        disk.has_room()
        await until(lambda: hangs)
        for number in range(20):
            took, each = await timed(parts.send(1, f"{number}"))
            sent.append(each)
            assert took < BOUND + 1
        hangs[0].end()
        await parts.home()
        assert await parts.stored() == sent


# the spill's disk


class SlowDisk:
    """Syncs of the spill that hang."""

    def __init__(self, monkeypatch) -> None:
        self._ended = threading.Event()
        self._sync = os.fdatasync
        self.asked = 0
        monkeypatch.setattr(os, "fdatasync", self)

    def __call__(self, descriptor) -> None:
        self.asked += 1
        assert self._ended.wait(PATIENCE)
        self._sync(descriptor)

    def end(self) -> None:
        self._ended.set()


async def test_where_the_spill_hangs_too_it_is_refused_in_time(tmp_path, monkeypatch):
    async with hanging(tmp_path) as (parts, hang):
        disk = SlowDisk(monkeypatch)
        for _ in range(2):
            took, error = await timed(refused(parts))
            assert took < 2 * BOUND + 1
        assert "the spill cannot be written: the disk does not answer" in error
        assert parts.failover.refusal() == error
        disk.end()
        async with asyncio.timeout(PATIENCE):
            while parts.failover.refusal():
                await asyncio.sleep(0.005)
        sent = await parts.send(3)
        hang.end()
        await parts.home()
        assert sent in await parts.stored()


async def refused(parts) -> str:
    with pytest.raises(StoreFull) as raised:
        await parts.send(1)
    return str(raised.value)


async def test_while_it_hangs_the_spill_remembers_no_more_than_the_first(tmp_path, monkeypatch):
    spill = await SpillQueue.open(tmp_path / "relay.spill", BOUND)
    disk = SlowDisk(monkeypatch)
    record = Spilled("00000000-0000-7000-8000-000000000000", callback(1))
    with pytest.raises(TimeoutError):
        await spill.append(record)
    for _ in range(100):
        took, _ = await timed(asyncio.gather(spill.append(record), return_exceptions=True))
        assert took < AT_ONCE
    assert len(spill._waiting) == 0
    disk.end()
    await spill.flushed()
    assert disk.asked == 1
    await spill.append(record)
    await spill.close()


async def test_a_spill_that_hangs_while_it_is_read_does_not_hold_up_the_store(
    tmp_path, monkeypatch
):
    async with with_a_spill(tmp_path, timeout=BOUND) as (parts, sent, disk):
        ended, real = threading.Event(), os.pread

        def hangs(*arguments):
            assert ended.wait(PATIENCE)
            return real(*arguments)

        monkeypatch.setattr(os, "pread", hangs)
        disk.has_room()
        await passed_by(parts)
        assert parts.failover.unreadable().endswith("the disk does not answer")
        new = await parts.send(5)
        assert new in await parts.stored()
        ended.set()
        await parts.home()
        assert sorted(await parts.stored()) == sorted([*sent, new])


async def test_a_spill_whose_removal_hangs_is_empty_afterwards(tmp_path, monkeypatch):
    """What comes next is read from the beginning of the new file."""
    spill = await SpillQueue.open(tmp_path / "relay.spill", BOUND)
    records = [Spilled(f"0000000{n}-0000-7000-8000-000000000000", callback(n)) for n in (1, 2)]
    await spill.append(records[0])
    spill.advance(await spill.read(9))
    ended, real = threading.Event(), os.unlink

    def hangs(*arguments, **more):
        assert ended.wait(PATIENCE)
        return real(*arguments, **more)

    monkeypatch.setattr(os, "unlink", hangs)
    with pytest.raises(TimeoutError):
        await spill.remove()
    ended.set()
    await spill.append(records[1])
    assert spill.records == 1
    assert (await spill.read(9)).records == [records[1]]
    await spill.close()


async def test_a_spill_that_hangs_while_it_is_opened_counts_as_there(tmp_path, monkeypatch):
    monkeypatch.setattr("relay.spill.queue.OPEN_TIMEOUT", BOUND)
    spill = await SpillQueue.open(tmp_path / "relay.spill", BOUND)
    await spill.append(Spilled("00000001-0000-7000-8000-000000000000", callback(1)))
    await spill.close()
    ended, real = threading.Event(), os.pread

    def hangs(*arguments):
        assert ended.wait(PATIENCE)
        return real(*arguments)

    monkeypatch.setattr(os, "pread", hangs)
    spill = await SpillQueue.open(tmp_path / "relay.spill", BOUND)
    assert spill.unopened
    assert spill.unread
    ended.set()
    async with asyncio.timeout(PATIENCE):
        while spill.unopened:
            await asyncio.sleep(0.005)
    assert spill.records == 1
    await spill.close()


# how long is waited


async def test_what_comes_behind_the_first_ends_with_it():
    shared, ended = SharedTimeout(BOUND), []

    async def waits(number):
        with pytest.raises(StoreStalled):
            async with shared.bounded():
                await asyncio.Event().wait()
        ended.append((number, time.monotonic()))

    async with asyncio.TaskGroup() as tasks:
        for number in range(5):
            tasks.create_task(waits(number))
            await asyncio.sleep(BOUND / 10)
    assert [number for number, _ in ended] == list(range(5))
    assert ended[-1][1] - ended[0][1] < BOUND / 3


async def test_what_is_done_in_time_is_left_alone():
    shared = SharedTimeout(BOUND)
    for _ in range(10):
        async with shared.bounded():
            await asyncio.sleep(BOUND / 5)
    with pytest.raises(TimeoutError, match="its own"):
        async with shared.bounded():
            raise TimeoutError("its own")


async def test_where_the_process_stood_still_the_disk_is_not_to_blame():
    shared = SharedTimeout(BOUND)
    loop, answer = asyncio.get_running_loop(), asyncio.Event()

    def answers():
        time.sleep(3 * BOUND)
        loop.call_soon_threadsafe(answer.set)

    async with shared.bounded():
        thread = asyncio.create_task(asyncio.to_thread(answers))
        await asyncio.sleep(0)
        time.sleep(3 * BOUND)
        await answer.wait()
    await thread
