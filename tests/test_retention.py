"""What goes when its term has passed, what stays, and what that leaves behind."""

import asyncio
import json

import pytest
from arrivals import NOW, arrival, claim_one, delivered, ids, waiting
from click.testing import CliRunner
from clock import settle
from faults.oracle import integrity
from olderstore import make_older
from relaying import relaying

from relay import retention
from relay.cli import main
from relay.config.model import Retention
from relay.retention import DOUBT, EVERY, FIRST, ClockGuard, RetentionTask, pause
from relay.store import PurgeCutoffs, Settlement, State
from relay.store.sqlite import SqliteStore
from relay.store.sqlite import purge as purges

DAY = 86_400.0
ALL = PurgeCutoffs(NOW + 1, NOW + 1, NOW + 1, NOW + 1)


@pytest.fixture
async def store(tmp_path, clock):
    store = await SqliteStore.open(tmp_path / "relay.db", clock=clock)
    yield store
    await store.close()


async def purge(store, before=ALL, **options):
    """How many events and callbacks went."""
    steps = [step async for step in store.purge(before, **options)]
    return sum(step.events for step in steps), sum(step.callbacks for step in steps)


async def land(store, arrival, state=State.DELIVERED):
    await store.add(arrival)
    claim = await claim_one(store)
    await store.settle([Settlement(claim.sink, claim.seq, state)])
    return claim


async def test_each_end_has_its_term(store):
    await land(store, arrival())
    await land(store, arrival(), State.DEAD)
    await store.add(arrival(sinks=()))
    await store.quarantine(arrival().callback, 422, "no kind")
    assert await purge(store, PurgeCutoffs(NOW, NOW, NOW, NOW)) == (0, 0)
    assert await purge(store, PurgeCutoffs(0, 0, NOW + 1, NOW)) == (0, 1)
    assert await purge(store, PurgeCutoffs(NOW + 1, 0, 0, NOW)) == (2, 0)
    assert await purge(store, PurgeCutoffs(0, NOW + 1, 0, NOW)) == (1, 0)
    assert await store.event_count() == 0
    counts = (await store.sink_counts())["crm"]
    assert (counts.pending, counts.delivered, counts.dead) == (0, 1, 0)


async def test_what_is_open_anywhere_stays(store):
    """Also where a sink has gone, is disabled, or has never looked at it."""
    await store.add(arrival(sinks=["crm", "gone"]))
    await store.settle([delivered(await claim_one(store))])
    await store.add(arrival(sinks=["gone"]))
    assert await purge(store) == (0, 0)
    await store.discard("gone", None)
    assert await purge(store) == (2, 0)


async def test_a_retry_that_waits_stays(store, clock):
    await store.add(arrival())
    await store.settle([waiting(await claim_one(store), NOW + 5_000_000)])
    assert await purge(store) == (0, 0)
    await clock.advance(10)
    await store.settle([delivered(await claim_one(store))])
    assert await purge(store) == (1, 0)


async def test_a_dry_run_only_counts(store):
    for _ in range(5):
        await land(store, arrival())
    assert await purge(store, dry_run=True) == (5, 0)
    assert await store.event_count() == 5


async def test_no_seq_is_given_twice(store, tmp_path, clock):
    last = (await land(store, arrival())).seq
    await purge(store)
    await store.close()
    again = await SqliteStore.open(tmp_path / "relay.db", clock=clock)
    try:
        await again.add(arrival())
        assert (await claim_one(again)).seq == last + 1
    finally:
        await again.close()


async def test_a_new_sink_after_a_purge_gets_what_follows(store):
    await land(store, arrival())
    await purge(store)
    new = arrival(sinks=["new"])
    await store.add(new)
    assert await ids(store, "new") == [new.event.id]


async def test_the_last_word_stays_while_an_older_callback_may_be_released(store):
    """Released, it lands behind the opt-out, which then has to go once more."""
    older = arrival(1, received=NOW - 10)
    kept = await store.quarantine(older.callback, 422, "no kind")
    stop = (await land(store, arrival(1, consent="opt_out"))).event.id
    before = PurgeCutoffs(NOW + 1, NOW + 1, 0, NOW + 1)
    assert await purge(store, before) == (0, 0)
    await store.release(kept, [older])
    await store.settle([delivered(await claim_one(store))])
    again = await claim_one(store)
    assert again.event.id == stop
    await store.settle([delivered(again)])
    assert [await purge(store, before) for _ in range(3)] == [(1, 0), (1, 0), (0, 0)]
    assert await store.opted_out("sumotext", older.event.data["mobile"])


async def test_the_last_word_stays_while_something_older_is_left(store):
    dead = await land(store, arrival(1), State.DEAD)
    stop = (await land(store, arrival(1, consent="opt_out"))).event.id
    before = PurgeCutoffs(NOW + 1, 0, 0, NOW + 1)
    assert await purge(store, before) == (0, 0)
    await store.retry_dead("crm", [dead.seq])
    await store.settle([delivered(await claim_one(store))])
    assert await ids(store) == [stop]


async def test_what_is_out_of_date_stays_so_when_the_newer_has_gone(store):
    dead = await land(store, arrival(1), State.DEAD)
    await land(store, arrival(1))
    assert await purge(store, PurgeCutoffs(NOW + 1, 0, 0, NOW + 1)) == (1, 0)
    await store.retry_dead("crm", [dead.seq])
    claim = await claim_one(store)
    assert claim.stale
    await store.settle([delivered(claim)])
    assert await purge(store) == (1, 0)
    assert await store.database.read(lambda db: db.execute("SELECT count(*) FROM heard").get) == 0


async def test_a_message_that_comes_again_later_is_new(store):
    first = arrival(1, message_id="m1")
    await land(store, first)
    assert (await store.add(arrival(1, message_id="m1"))).id == first.event.id
    await purge(store)
    new = arrival(1, message_id="m1")
    assert (await store.add(new)).id == new.event.id


async def test_a_copy_of_what_has_just_gone_is_older_than_all(store):
    """Between `replay --as-new` reading an event and adding its copy, a purge may come."""
    first = arrival(1, consent="opt_in")
    await land(store, first)
    await land(store, arrival(1, consent="opt_out"))
    await purge(store)
    await store.add(arrival(1, consent="opt_in", copy_of=first.event.id))
    assert await store.opted_out("sumotext", first.event.data["mobile"])


async def test_events_that_arrive_meanwhile_are_left_alone(store):
    for _ in range(30):
        await land(store, arrival())
    later = NOW + 10
    before = PurgeCutoffs(NOW + 1, NOW + 1, 0, NOW + 1)
    gone = 0
    async for step in store.purge(before):
        gone += step.events
        await store.add(arrival(received=later))
    assert gone == 30
    assert await store.event_count() > 0
    assert (await store.sink_counts())["crm"].pending == await store.event_count()


async def test_what_a_clock_dated_in_the_future_does_not_end_the_purge(store):
    for _ in range(3):
        await land(store, arrival(received=NOW + 10 * 365 * 86_400_000_000))
    await land(store, arrival())
    assert await purge(store) == (1, 0)


# the file


async def with_old_events(path, clock, monkeypatch, number=3000):
    """A store of which nearly all is old, behind which something new stands in the file."""
    monkeypatch.setattr(purges, "LEFT_FREE", 20)
    store = await SqliteStore.open(path, clock=clock)
    await asyncio.gather(*(store.add(arrival(sinks=())) for _ in range(number)))
    await asyncio.gather(*(store.add(arrival(sinks=(), received=NOW + 9)) for _ in range(50)))
    return store


async def size_when_closed(store, path):
    await store.close()
    return path.stat().st_size


async def test_a_file_of_which_most_is_free_is_shortened(tmp_path, clock, monkeypatch):
    path = tmp_path / "relay.db"
    store = await with_old_events(path, clock, monkeypatch)
    steps = [step async for step in store.purge(ALL)]
    assert sum(step.events for step in steps) == 3000
    assert len([step for step in steps if not step.events]) > 5, "a little at a time"
    assert await store.event_count() == 50
    assert 0 < await store.reusable() <= 20 * 4096
    assert await size_when_closed(store, path) < 300_000
    assert integrity(path) == "ok"


async def test_a_file_that_is_not_shortened_stays_large(tmp_path, clock, monkeypatch):
    """The control; so does a dry run, and what is free stays where it is not much."""
    path = tmp_path / "relay.db"
    store = await with_old_events(path, clock, monkeypatch)
    await purge(store, dry_run=True)
    monkeypatch.setattr(purges, "LEFT_FREE", 16_384)
    await purge(store)
    assert await store.reusable() > 1_000_000
    assert await size_when_closed(store, path) > 1_500_000


async def test_a_file_of_an_earlier_release_stays_as_long_as_it_is(tmp_path, clock, monkeypatch):
    make_older(tmp_path / "relay.db")
    store = await with_old_events(tmp_path / "relay.db", clock, monkeypatch)
    assert await purge(store) == (3000, 0)
    assert await store.reusable() > 1_000_000
    await store.close()


# by itself


class Purges:
    """A store that only notes what is asked of it."""

    def __init__(self, last=None):
        self.asked = []
        self.last = last

    async def purge(self, before, **_):
        self.asked.append(before)
        return
        yield

    async def last_purge(self):
        return self.last

    async def note_purge(self, now):
        self.last = now


async def test_it_goes_on_round_by_round(clock):
    store = Purges()
    task = asyncio.create_task(RetentionTask(store, Retention(), clock).run())
    await settle()
    await clock.advance(FIRST + 1)
    assert len(store.asked) == 1
    await clock.advance(2 * EVERY)
    assert len(store.asked) == 3
    first = store.asked[0]
    assert first.delivered == first.now - 30 * 86_400_000_000
    assert first.dead == first.now - 180 * 86_400_000_000
    task.cancel()


def test_rounds_keep_up_with_what_comes_in_at_a_third_of_their_own_speed():
    """Each purges what has come in since the one before began; none gets longer and longer."""
    round_, speed = 10 * EVERY, 3.0  # events a second; one comes in
    for _ in range(100):
        round_ = (round_ + pause(round_)) / speed
    assert round_ <= EVERY


async def test_a_clock_that_jumps_ahead_deletes_nothing(clock):
    store = Purges()
    task = asyncio.create_task(RetentionTask(store, Retention(), clock).run())
    await settle()
    await clock.advance(FIRST + 1)
    clock.jump(10 * 365 * DAY)
    await clock.advance(3 * EVERY)
    assert len(store.asked) == 1
    clock.jump(-10 * 365 * DAY)
    await clock.advance(DOUBT)
    assert all(each.now <= int(clock.now() * 1e6) for each in store.asked)
    assert len(store.asked) > 1
    task.cancel()


def test_after_a_month_without_it_a_start_is_doubted_for_a_day():
    assert ClockGuard(100 * DAY, 0.0, None).believed(100 * DAY, 0.0)
    assert ClockGuard(100 * DAY, 0.0, 99 * DAY).believed(100 * DAY, 0.0)
    guard = ClockGuard(100 * DAY, 0.0, 10 * DAY)
    assert not guard.believed(100 * DAY, 0.0)
    assert guard.believed(101 * DAY + 1, DAY + 1)


def test_never_is_before_everything():
    assert retention.before(Retention(delivered="never"), 1e9).delivered == 0


# by hand


async def test_the_command_says_what_went(tmp_path):
    sink = {"plugin": "csv", "options": {"path": "events.csv"}}
    async with relaying(tmp_path, sink) as relay:
        await relay.send_many(range(5))
        await relay.reached(delivered=5)
        asked = ("purge", "--older-than", "0s", "--yes")
        assert await relay.asked("purge") == {"events": 0, "callbacks": 0}
        assert await relay.asked(*asked, "--dry-run") == {"events": 5, "callbacks": 0}
        assert "5 events and 0 callbacks in quarantine deleted" in await relay.command(*asked)
        assert (await relay.asked("status"))["events"] == 0
    result = await asyncio.to_thread(
        CliRunner().invoke, main, ["purge", "--json", "--config", str(tmp_path / "relay.yaml")]
    )
    assert json.loads(result.stdout) == {"events": 0, "callbacks": 0}
