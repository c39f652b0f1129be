"""Failover: whatever the store does, what was acknowledged is there once, in its order."""

import asyncio
import gzip
import itertools
import logging
import time
from contextlib import asynccontextmanager
from zoneinfo import ZoneInfo

import pytest
from clock import settle
from listening import Straight, config
from spills import PATIENCE, FailoverParts, Soon, Trouble, callback, failover_parts, nonsense, until

from relay.clock import SystemClock
from relay.sources.router import Router
from relay.spill.disk import DiskGuard
from relay.spill.failover import CHUNK, FailoverStore
from relay.spill.queue import SpillQueue
from relay.spill.records import Spilled
from relay.spill.replayer import Replayer
from relay.state_directory import StateDirectory
from relay.store import EventFilter, State, StoreBroken, StoreError, StoreFull
from relay.store.sqlite import SqliteStore
from relay.templating.expressions import Compiler

FULL = StoreFull("the disk is full")
THREE = [callback(1, smsid="m1"), nonsense(), callback(2, smsid="m3")]
"""A request of which one part makes no event."""


class WithConsent:
    """A sink that gets no events of contacts that have opted out."""

    name = "crm"
    enabled = True
    when = Compiler(ZoneInfo("UTC")).condition("not opted_out")
    gets = when.matches


def troubled(error=FULL):
    """Something to put between the failover and its store, and the list that it gets into."""
    made = []

    def wrap(store):
        made.append(Trouble(store, error))
        return made[0]

    return wrap, made


async def test_while_the_store_is_well_there_is_no_spill(tmp_path):
    async with failover_parts(tmp_path) as parts:
        sent = [await parts.send(number) for number in range(3)]
        assert await parts.stored() == sent
        assert parts.failover.notices() == []
        assert not parts.spill.path.exists()


async def test_a_packed_body_comes_home_as_it_was(tmp_path):
    wrap, made = troubled()
    async with failover_parts(tmp_path, wrap=wrap) as parts:
        body = gzip.compress(b"msg=STOP")
        packed = callback(1)._replace(method="POST", body=body, encoding="gzip")
        await parts.failover.receive(packed._replace(query=b"mobile=2125550001&carrierId=T&key=K"))
        made[0].error = None
        await parts.home()
        (row,) = await parts.store.events_after(EventFilter(), after=0)
        assert row.event.data["consent"] == "opt_out"
        assert (row.callback.body, row.callback.encoding) == (body, "gzip")


@pytest.mark.parametrize("error", [FULL, StoreError("the store is ill")])
async def test_what_the_store_does_not_take_is_spilled_and_comes_home_in_order(
    tmp_path, error, caplog
):
    wrap, made = troubled(error)
    async with failover_parts(tmp_path, wrap=wrap) as parts:
        sent = [await parts.send(number) for number in range(3)]
        (notice,) = parts.failover.notices()
        assert "3 so far" in notice
        assert str(error) in notice
        assert parts.failover.records() == 3
        made[0].error = None
        sent += [await parts.send(number) for number in range(3)]
        await parts.home()
        sent.append(await parts.send(9))
        assert await parts.stored() == sent
    assert "callbacks go to the store again" in caplog.text
    assert "21255" not in caplog.text


async def test_without_the_spill_the_same_is_refused(tmp_path):
    """The control."""
    wrap, made = troubled()
    async with failover_parts(tmp_path, wrap=wrap):
        with pytest.raises(StoreFull):
            await Straight(config(), made[0]).receive(callback())


async def test_what_is_not_understood_is_quarantined_by_way_of_the_spill(tmp_path):
    wrap, made = troubled()
    async with failover_parts(tmp_path, wrap=wrap) as parts:
        told = await parts.failover.quarantine(nonsense(), 422, "mobile is missing")
        made[0].error = None
        await parts.home()
        kept = await parts.store.quarantined_one(told)
    assert (kept.callback, kept.status, kept.reason) == (nonsense(), 422, "mobile is missing")


async def test_of_wrong_tokens_the_spill_keeps_no_more_than_the_store(tmp_path, monkeypatch):
    """A sender gets as many as are left for the others, so that there is room for those."""
    monkeypatch.setattr("relay.spill.failover.UNAUTHORIZED_KEPT", 8)
    wrap, _ = troubled()
    async with failover_parts(tmp_path, wrap=wrap) as parts:

        async def kept(sender):
            """How many callbacks of this sender are kept."""
            callback = nonsense()._replace(sender=sender)
            for number in range(9):
                try:
                    await parts.failover.quarantine(callback, 401, "the token is wrong")
                except StoreFull:
                    return number
            raise AssertionError("no end")

        assert await kept("203.0.113.1") == 4
        assert await kept("2001:db8::1") == 2
        assert await kept("2001:db8::2") == 0
        assert [await kept(f"198.51.100.{each}") for each in range(3)] == [1, 1, 0]
        with pytest.raises(StoreFull, match="enough of those"):
            await parts.failover.quarantine(nonsense(), 401, "the token is wrong")
        await parts.send()
        assert parts.failover.records() == 9


async def test_a_spill_that_was_left_comes_home_at_the_next_start(tmp_path):
    wrap, _ = troubled()
    async with failover_parts(tmp_path, wrap=wrap) as parts:
        sent = [await parts.send(number) for number in range(CHUNK * 2 + 3)]
    async with failover_parts(tmp_path) as parts:
        sent.append(await parts.send(5))
        await parts.home()
        assert await parts.stored() == sent[:500]
        assert await parts.store.event_count() == len(sent)


async def test_where_neither_takes_it_it_is_refused(tmp_path, monkeypatch):
    def fails(*_):
        raise OSError(28, "No space left on device")

    wrap, _ = troubled()
    async with failover_parts(tmp_path, wrap=wrap) as parts:
        monkeypatch.setattr("relay.spill.file.os.pwrite", fails)
        with pytest.raises(StoreFull, match="the disk is full, and the spill cannot be written"):
            await parts.send()
        monkeypatch.undo()
        await parts.send()
        assert parts.failover.records() == 1


async def test_who_refuses_says_so_until_one_can_be_kept_again(tmp_path, monkeypatch):
    def fails(*_):
        raise OSError(28, "No space left on device")

    async def refuses(parts):
        monkeypatch.setattr("relay.spill.file.os.pwrite", fails)
        with pytest.raises(StoreFull) as raised:
            await parts.send()
        assert parts.failover.refusal() == str(raised.value)
        assert "No space left on device" in parts.failover.refusal()

    async def takes_again(parts):
        async with asyncio.timeout(PATIENCE):
            while parts.failover.refusal():
                await asyncio.sleep(0.005)

    wrap, made = troubled()
    async with failover_parts(tmp_path, wrap=wrap) as parts:
        assert not parts.failover.refusal()
        await refuses(parts)
        monkeypatch.undo()
        await takes_again(parts)
        await refuses(parts)
        made[0].error = None  # the spill is as it was
        await takes_again(parts)


async def test_a_disk_that_is_almost_full_is_a_refusal_where_only_the_spill_is_left(tmp_path):
    wrap, _ = troubled()
    async with failover_parts(tmp_path, wrap=wrap) as parts:
        await parts.send()
        await parts.failover.stop()  # nobody else looks at the disk
        parts.reserve.spill_low = True
        with pytest.raises(StoreFull, match="the spill's disk is almost full"):
            await parts.send()
        assert "the spill's disk is almost full" in parts.failover.refusal()
        parts.reserve.spill_low = False
        assert not parts.failover.refusal()


async def test_an_id_that_stands_twice_in_the_spill_is_one_event_and_nothing_else(tmp_path):
    one, two = (f"0000000{each}-0000-7000-8000-000000000000" for each in (1, 2))
    spill = await SpillQueue.open(tmp_path / "relay.db.spill")
    for number, each in enumerate([one, two, one]):
        await spill.append(Spilled(each, callback(number)))
    await spill.close()
    async with failover_parts(tmp_path) as parts:
        await parts.home()
        assert await parts.stored() == [one, two]
        assert await parts.store.quarantine_count() == 0


async def test_a_callback_of_unknown_fate_is_there_once(tmp_path):
    """The commit failed, and yet it is on disk: as after an fsync that failed."""

    class Indeterminate(Trouble):
        async def add(self, arrival):
            await self._store.add(arrival)
            raise StoreBroken("nobody knows")

    async with failover_parts(tmp_path, wrap=Indeterminate) as parts:
        sent = [await parts.send(1)]
    async with failover_parts(tmp_path) as parts:
        await parts.home()
        assert await parts.stored() == sent


async def test_a_message_that_comes_again_is_stored_once(tmp_path):
    wrap, made = troubled(None)
    async with failover_parts(tmp_path, wrap=wrap) as parts:
        first = await parts.send(1, smsid="m1")
        made[0].error = FULL
        for _ in range(2):
            await parts.send(1, smsid="m1")
        made[0].error = None
        await parts.home()
        assert await parts.stored() == [first]


async def test_what_the_store_never_takes_is_kept_in_quarantine(tmp_path):
    """So that one callback does not keep all the others in the spill."""

    class Choosy(Trouble):
        async def add(self, arrival):
            if arrival.event.data["message"] == "poison":
                raise StoreError("the store refused it")
            return await self._store.add(arrival)

    async with failover_parts(tmp_path, wrap=Choosy) as parts:
        poison = await parts.send(1, "poison")
        sent = [await parts.send(number) for number in range(3)]
        await parts.home()
        assert await parts.stored() == sent
        kept = await parts.store.quarantined_one(poison)
    assert (kept.status, kept.reason) == (422, "the store refused it")


async def test_a_wrong_token_is_not_forgotten_where_the_store_refuses_it(tmp_path):
    """As one that was not understood it could be released with those."""

    class Choosy(Trouble):
        async def quarantine(self, callback, status, *rest):
            self.tries += 1
            if self.error or self.tries == 2:
                raise self.error or StoreError("the store refused it")
            return await self._store.quarantine(callback, status, *rest)

    made = []

    def wrap(store):
        made.append(Choosy(store, FULL))
        return made[0]

    async with failover_parts(tmp_path, wrap=wrap) as parts:
        told = await parts.failover.quarantine(nonsense(), 401, "the token is wrong")
        made[0].error = None
        await parts.home()
        kept = await parts.store.quarantined_one(told)
    assert made[0].tries == 3
    assert (kept.status, kept.reason) == (401, "the token is wrong")


async def test_what_not_even_the_quarantine_takes_waits_in_the_spill(tmp_path):
    """It is the store that is ill, then, and not the callback."""

    class Recovering(Trouble):
        """It recovers when the first callback comes to it, not between a refused callback and the
        quarantine, which would then rightly take it.
        """

        first = None

        async def add(self, arrival):
            if arrival.event.id == self.first:
                self.error = None
            return await super().add(arrival)

    made = []

    def wrap(store):
        made.append(Recovering(store, StoreError("the store refuses everything")))
        return made[0]

    async with failover_parts(tmp_path, wrap=wrap) as parts:
        sent = [await parts.send(number) for number in range(3)]
        await until(lambda: made[0].tries >= 10)
        assert parts.failover.records() == 3
        made[0].first = sent[0]
        await parts.home()
        assert await parts.stored() == sent


async def test_a_bad_record_is_put_aside_and_the_others_come_home(tmp_path, caplog):
    wrap, _ = troubled()
    async with failover_parts(tmp_path, wrap=wrap) as parts:
        sent = [await parts.send(number) for number in range(3)]
    path = tmp_path / "relay.db.spill"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b"deadbeef {}\n" + lines[2])
    async with failover_parts(tmp_path) as parts:
        await parts.home()
        assert await parts.stored() == [sent[0], sent[2]]
    assert path.with_name(f"{path.name}.bad").read_bytes() == b"deadbeef {}\n"
    assert "1 records are wrong" in caplog.text
    assert [r.levelno for r in caplog.records if "are wrong" in r.message] == [logging.ERROR]


async def test_the_parts_of_a_request_are_spilled_and_come_home(tmp_path):
    wrap, made = troubled()
    async with failover_parts(tmp_path, wrap=wrap) as parts:
        first, reason, last = await parts.failover.receive_all(THREE)
        assert isinstance(reason, str)
        assert parts.failover.records() == 2
        again = await parts.failover.receive_all(THREE)
        assert {again[0].id, again[2].id}.isdisjoint({first.id, last.id})
        made[0].error = None
        await parts.home()
        assert await parts.stored() == [first.id, last.id]
        known = await parts.failover.receive_all(THREE)
        assert [known[0], known[2]] == [each._replace(repeated=True) for each in (first, last)]


@pytest.mark.parametrize("taken", [0, 1, 2])
async def test_of_the_parts_of_a_request_those_are_spilled_that_the_store_did_not_take(
    tmp_path, taken
):
    wrap, made = troubled(None)
    async with failover_parts(tmp_path, wrap=wrap) as parts:
        made[0].takes = taken
        found = await parts.failover.receive_all([callback(each) for each in range(3)])
        assert parts.failover.records() == 3 - taken
        assert await parts.store.event_count() == taken
        made[0].takes = None
        await parts.home()
        assert sorted(await parts.stored()) == sorted(each.id for each in found)


async def test_the_parts_of_a_request_are_refused_where_not_all_can_be_kept(tmp_path, monkeypatch):
    def fails(*_):
        raise OSError(28, "No space left on device")

    wrap, made = troubled(None)
    async with failover_parts(tmp_path, wrap=wrap) as parts:
        made[0].takes = 1
        monkeypatch.setattr("relay.spill.file.os.pwrite", fails)
        with pytest.raises(StoreFull, match="the spill cannot be written"):
            await parts.failover.receive_all(THREE)
        monkeypatch.undo()
        made[0].takes = None
        await parts.home()
        again = await parts.failover.receive_all(THREE)
        assert [again[0].repeated, again[2].repeated] == [True, False]
        assert await parts.stored() == [again[0].id, again[2].id]


@pytest.mark.parametrize("error", [None, FULL])
async def test_the_words_of_a_contact_in_one_request_count_in_their_order(tmp_path, error):
    wrap, made = troubled(error)
    async with failover_parts(tmp_path, wrap=wrap, sinks=[WithConsent]) as parts:
        sent = [callback(1, "STOP"), callback(1), callback(2)]
        _, after, other = await parts.failover.receive_all(sent)
        made[0].error = None
        await parts.home()
        rows = await parts.store.deliveries(list(State))
    assert other.id in {row.event_id for row in rows}
    assert after.id not in {row.event_id for row in rows}


class Batches:
    """Put between failover and store: how often a batch of events began."""

    def __init__(self, store) -> None:
        self._store = store
        self._under_way = 0
        self.begun = 0

    def __getattr__(self, name):
        return getattr(self._store, name)

    async def add(self, arrival):
        self.begun += not self._under_way
        self._under_way += 1
        try:
            return await self._store.add(arrival)
        finally:
            self._under_way -= 1


@pytest.mark.parametrize("words", [["hello"], ["START", "hello"]])
async def test_many_parts_of_one_contact_are_few_batches(tmp_path, words):
    made = []

    def wrap(store):
        made.append(Batches(store))
        return made[0]

    async with failover_parts(tmp_path, wrap=wrap, sinks=[WithConsent]) as parts:
        sent = [callback(1, word) for word in words * (400 // len(words))]
        receipts = await parts.failover.receive_all(sent)
        assert await parts.stored() == [each.id for each in receipts]
        assert made[0].begun <= 12


async def test_an_opt_in_that_is_a_repeat_lets_nothing_through(tmp_path):
    async with failover_parts(tmp_path, sinks=[WithConsent]) as parts:
        opt_in = callback(1, "START", smsid="m1")
        await parts.failover.receive(opt_in)
        await parts.send(1, "STOP")
        _, after = await parts.failover.receive_all([opt_in, callback(1)])
        rows = await parts.store.deliveries(list(State))
        assert after.id not in {row.event_id for row in rows}
        _, after = await parts.failover.receive_all([callback(1, "START"), callback(1)])
        rows = await parts.store.deliveries(list(State))
        assert after.id in {row.event_id for row in rows}


async def test_parts_that_take_long_to_make_are_no_disk_that_hangs(tmp_path):
    class Slow(WithConsent):
        name = "slow"

        @staticmethod
        def gets(*_):
            time.sleep(0.05)
            return True

    async with failover_parts(tmp_path, sinks=[Slow()], timeout=1.5) as parts:
        await parts.failover.receive_all([callback(each) for each in range(40)])
        assert parts.failover.records() == 0
        assert await parts.store.event_count() == 40


async def test_the_words_of_a_contact_count_in_their_order(tmp_path):
    """An event behind an opt-out sees it, though both come home in one go."""

    wrap, made = troubled()
    async with failover_parts(tmp_path, wrap=wrap, sinks=[WithConsent]) as parts:
        await parts.send(1, "STOP")
        after = await parts.send(1)
        other = await parts.send(2)
        made[0].error = None
        await parts.home()
        rows = await parts.store.deliveries(list(State))
    assert other in {row.event_id for row in rows}
    assert after not in {row.event_id for row in rows}


async def test_callbacks_keep_coming_while_the_spill_goes_home(tmp_path):
    """However many come, the switch is made, and each contact's events are in their order."""
    wrap, made = troubled()
    sent = {number: [] for number in range(8)}

    async def sends(parts, contact):
        while not done.is_set():
            sent[contact].append(await parts.send(contact))
            await asyncio.sleep(0.002)

    done = asyncio.Event()
    async with failover_parts(tmp_path, wrap=wrap) as parts, asyncio.TaskGroup() as senders:
        for number in sent:
            senders.create_task(sends(parts, number))
        try:
            while parts.failover.records() < 500:
                await asyncio.sleep(0.001)
            made[0].error = None
            await parts.home()
            before = len(sent[0])
            while len(sent[0]) < before + 20:
                await asyncio.sleep(0.001)
            assert parts.failover.notices() == []
        finally:
            done.set()
    stored = {}
    for event_id, mobile in await everything(tmp_path):
        stored.setdefault(mobile, []).append(event_id)
    assert sorted(stored.values()) == sorted(sent.values())


async def everything(folder):
    """Each event's id and contact, in the order of the store."""
    store = await SqliteStore.open(folder / "relay.db")
    rows = []
    while page := await store.events_after(EventFilter(), after=rows[-1].seq if rows else 0):
        rows += page
    await store.close()
    return [(row.event.id, row.event.data["mobile"]) for row in rows]


async def test_callbacks_are_not_held_up_by_a_store_that_takes_long_to_refuse(tmp_path):
    """As it does while another program keeps it locked."""

    class Slow(Trouble):
        async def add(self, arrival):
            if self.error:
                self.tries += 1
                asked.set()
                await refuse.wait()
            return await super().add(arrival)

    made, asked, refuse = [], asyncio.Event(), asyncio.Event()

    def wrap(store):
        made.append(Slow(store, FULL))
        return made[0]

    async with failover_parts(tmp_path, wrap=wrap) as parts:
        first = asyncio.create_task(parts.send(1))
        await asked.wait()
        refuse.set()
        sent = [await first]
        refuse.clear()
        asked.clear()
        await asked.wait()  # the way home has begun
        async with asyncio.timeout(10):
            sent += [await parts.send(number) for number in range(3)]
        made[0].error = None
        refuse.set()
        await parts.home()
        assert await parts.stored() == sent


async def test_erasing_waits_for_what_is_on_its_way_and_leaves_the_rest(tmp_path):
    wrap, made = troubled()
    async with failover_parts(tmp_path, wrap=wrap) as parts:
        sent = [await parts.send(number) for number in range(4)]
        assert (
            await parts.failover.erase(
                lambda found: None if b"2125550002" in found.query else found
            )
            == 1
        )
        assert b"2125550002" not in parts.spill.path.read_bytes()
        made[0].error = None
        await parts.home()
        assert await parts.stored() == [sent[0], sent[1], sent[3]]


# a crash at each step


class Crash(BaseException):
    """The process is no more."""


class Steps:
    """Counts the steps of an import, and crashes at one of them, before or after it is done."""

    def __init__(self, at: int, *, after: bool) -> None:
        self.at = at
        self.after = after
        self.taken = 0
        self.crashed = asyncio.Event()

    async def step(self, work):
        self.taken += 1
        number = self.taken
        if self.crashed.is_set() or (number == self.at and not self.after):
            work.close()
            self._crash()
        result = await work
        if number == self.at:
            self._crash()
        return result

    def _crash(self):
        self.crashed.set()
        raise Crash

    def around(self, thing, *names):
        """The thing, with these of its methods as steps."""
        steps = self

        class Around:
            def __getattr__(self, name):
                found = getattr(thing, name)
                if name not in names:
                    return found
                return lambda *arguments: steps.step(found(*arguments))

        return Around()


async def imported(folder, steps) -> bool:
    """Start on what is there; whether all came home before the crash."""
    store = await SqliteStore.open(folder / "relay.db")
    spill = await SpillQueue.open(folder / "relay.db.spill")
    stepped = steps.around(spill, "read", "put_aside", "remove")
    between = steps.around(store, "add", "quarantine", "known")
    replayer = Replayer(_router(between), between, stepped)
    reserve = DiskGuard(StateDirectory.around(folder / "relay.db", spill.path), 0)
    failover = FailoverStore(_router(between), stepped, reserve, None)
    try:
        await failover._replay(replayer)
    except Crash:
        return False
    finally:
        await spill.close()
        await store.close(clean=not steps.crashed.is_set())
    return True


def _router(store):
    return Router(config(sinks=("crm",)), store, SystemClock())


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("again", [1, 2])
async def test_a_crash_at_any_step_of_the_import_stores_each_once(tmp_path, after, again):
    for at in itertools.count(1):
        folder = tmp_path / f"{at}"
        folder.mkdir()
        wrap, _ = troubled()
        async with failover_parts(folder, wrap=wrap) as parts:
            sent = [await parts.send(number % 2) for number in range(5)]
            kept = await parts.failover.quarantine(nonsense(), 422, "mobile is missing")
        with (folder / "relay.db.spill").open("ab") as file:
            file.write(b"rubbish\n")
        whole = [await imported(folder, Steps(at, after=after)) for _ in range(again)]
        async with failover_parts(folder) as parts:
            await parts.home()
            assert await parts.stored() == sent
            assert [each.id for each in await parts.store.quarantined()] == [kept]
            rows = await parts.store.deliveries(list(State))
            assert sorted(row.event_id for row in rows) == sorted(sent)
        assert (folder / "relay.db.spill.bad").read_bytes() == b"rubbish\n"
        if all(whole):
            break
    assert at > 10


# space


class Disk(DiskGuard):
    """Says what a test wants."""

    def __init__(self, *, store_low: bool = False, spill_low: bool = False) -> None:
        self.store_low = store_low
        self.spill_low = spill_low

    async def check(self, reusable) -> None:
        pass


async def test_callbacks_are_turned_away_before_the_store_s_disk_is_full(tmp_path):
    async with failover_parts(tmp_path) as parts:
        parts.failover._disk_guard = disk = Disk(store_low=True)
        async with asyncio.timeout(PATIENCE):
            while not parts.failover.notices():
                await asyncio.sleep(0.005)
        sent = await parts.send()
        assert parts.failover.records() == 1
        disk.spill_low = True
        with pytest.raises(StoreFull, match="almost full"):
            await parts.send()
        await settle()
        disk.store_low = False
        await parts.home()
        assert await parts.stored() == [sent]


# a store that comes later


@asynccontextmanager
async def alone(folder):
    """A failover that has no store yet."""
    spill = await SpillQueue.open(folder / "spill")
    failover = FailoverStore(_router(None), spill, Disk(), Soon())
    await failover.start()
    yield failover, spill
    await failover.stop()
    await spill.close()


async def test_without_a_store_all_goes_to_the_spill(tmp_path):
    async with alone(tmp_path) as (failover, spill):
        first = await failover.receive(callback(1))
        second = await failover.quarantine(nonsense(), 422, "mobile is missing")
        assert [each.id for each in (await spill.read(9)).records] == [first.id, second]
    assert first.type == "com.sumotext.web_form"


async def test_a_store_that_comes_later_gets_what_came_before_it_first(tmp_path):
    """And what is being written to the spill in that moment is before it, too."""
    store = await SqliteStore.open(tmp_path / "relay.db")
    async with alone(tmp_path) as (failover, spill):
        sent = [(await failover.receive(callback(1))).id]
        being_written = asyncio.create_task(failover.receive(callback(1)))
        while not spill._writing:
            await asyncio.sleep(0)
        await failover.attach_store(_router(store), store)
        sent.append((await being_written).id)
        sent += [(await failover.receive(callback(1))).id for _ in range(3)]
        parts = FailoverParts(failover, store, spill, None)
        await parts.home()
        sent.append(await parts.send(1))
        assert await parts.stored() == sent
    await store.close()


async def test_a_store_that_comes_later_and_finds_no_spill_is_written_at_once(tmp_path):
    store = await SqliteStore.open(tmp_path / "relay.db")
    async with alone(tmp_path) as (failover, spill):
        await failover.attach_store(_router(store), store)
        await failover.receive(callback(1))
        assert not spill.path.exists()
    await store.close()
