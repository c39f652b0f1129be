"""Since when deliveries wait, as the metrics and the alerts have it."""

import pytest
from arrivals import NOW, arrival, claim_one, delivered, waiting

from relay.event import RawCallback
from relay.store import BacklogAge, Settlement, State
from relay.store.sqlite import SqliteStore, queries

SECOND = 1_000_000


@pytest.fixture
async def store(tmp_path, clock):
    opened = await SqliteStore.open(tmp_path / "relay.db", clock=clock)
    yield opened
    await opened.close()


def at(second: int) -> int:
    return NOW + second * SECOND


async def add(store, second, contact=None, **options):
    return await store.add(arrival(contact, received=at(second), **options))


async def test_nothing_waits_where_nothing_is(store):
    assert await store.backlog_age() == {}


async def test_the_oldest_is_found_before_it_was_ever_claimed(store):
    await add(store, 1)
    await add(store, 2)
    assert await store.backlog_age() == {"crm": BacklogAge(at(1))}


@pytest.mark.parametrize("state", ["in flight", "waiting"])
async def test_the_oldest_is_found_in_whatever_state(store, state):
    await add(store, 1)
    await add(store, 2)
    (claim,) = (await store.claim("crm", 1)).claims
    if state == "waiting":
        await store.settle([waiting(claim, at(3600))])
    assert (await store.backlog_age())["crm"] == BacklogAge(at(1))


async def test_one_that_is_blocked_is_the_oldest_when_the_one_before_has_landed(store):
    await add(store, 1, 7)
    await add(store, 2, 7)
    first = await claim_one(store)
    await store.settle([delivered(first)])
    assert (await store.backlog_age())["crm"] == BacklogAge(at(2))


async def test_what_is_delivered_waits_no_more_and_each_sink_has_its_own(store):
    await add(store, 1, sinks=("crm", "archive"))
    await store.settle([delivered(await claim_one(store))])
    assert await store.backlog_age() == {"archive": BacklogAge(at(1))}


async def test_events_for_others_are_passed_over_and_not_read_twice(store, monkeypatch):
    """The look goes on where the last one ended, however few events one look may read."""
    await add(store, 0)
    await store.settle([delivered(await claim_one(store))])
    monkeypatch.setattr(queries, "LOOKED_AT", 2)
    for second in range(5):
        await add(store, second, sinks=("archive",))
    await add(store, 9)
    looks = [(await store.backlog_age())["crm"].since for _ in range(4)]
    assert looks == [None, None, at(9), at(9)]


async def test_an_opt_out_is_known_by_its_word_and_not_by_its_hurry(store):
    """What has to land before an opt-out is as urgent, but is none."""
    await add(store, 1, 7)
    await add(store, 2, 8)
    await add(store, 3, 7, consent="opt_out")
    assert (await store.backlog_age())["crm"] == BacklogAge(at(1), at(3))


async def test_an_opt_out_said_again_is_as_old_as_the_first(store):
    await add(store, 1, 7, consent="opt_out")
    await add(store, 5, 7, consent="opt_out")
    assert (await store.backlog_age())["crm"].opt_out_since == at(1)


async def test_one_who_has_opted_in_again_is_no_opt_out(store):
    await add(store, 1, 7, consent="opt_out")
    await add(store, 5, 7, consent="opt_in")
    assert (await store.backlog_age())["crm"] == BacklogAge(at(1), None)


async def test_an_opt_out_in_flight_or_waiting_has_not_arrived(store):
    await add(store, 1, 7, consent="opt_out")
    claim = await claim_one(store, urgent=True)
    assert (await store.backlog_age())["crm"].opt_out_since == at(1)
    await store.settle([waiting(claim, at(3600))])
    assert (await store.backlog_age())["crm"].opt_out_since == at(1)


async def test_a_dead_opt_out_has_not_arrived_until_somebody_gives_it_up(store):
    await add(store, 1, 7, consent="opt_out")
    claim = await claim_one(store, urgent=True)
    await store.settle([Settlement("crm", claim.seq, State.DEAD, error="no")])
    assert await store.backlog_age() == {"crm": BacklogAge(None, at(1))}
    await store.discard("crm", [claim.seq])
    assert (await store.backlog_age()).get("crm", BacklogAge()) == BacklogAge()


async def test_what_is_replayed_has_been_waited_for_by_nobody(store):
    receipt = await add(store, 1, 7, consent="opt_out")
    claim = await claim_one(store, urgent=True)
    await store.settle([delivered(claim)])
    assert await store.replay("crm", [claim.seq]) == 1
    assert await store.backlog_age() == {"crm": BacklogAge()}
    assert receipt.id == claim.event.id


async def died(store, second, sink="crm"):
    """A delivery that came at `second` and is given up now; its seq."""
    await add(store, second, sinks=(sink,))
    claim = await claim_one(store, sink)
    await store.settle([Settlement(sink, claim.seq, State.DEAD, error="no")])
    return claim.seq


async def test_what_died_counts_from_its_end_on_for_each_sink(store, clock):
    now = int(clock.now() * SECOND)
    await died(store, 1)
    await clock.advance(60)
    await died(store, 2)
    await died(store, 3, "archive")
    assert await store.dead_since(since=now, until=now + 60 * SECOND) == {"crm": 2, "archive": 1}
    assert await store.dead_since(since=now + 1, until=now + 60 * SECOND) == {
        "crm": 1,
        "archive": 1,
    }
    assert await store.dead_since(since=now, until=now + 59 * SECOND) == {"crm": 1}


async def test_what_died_and_was_replayed_or_discarded_counts_no_more(store, clock):
    now = int(clock.now() * SECOND)
    seqs = [await died(store, second) for second in range(3)]
    await store.discard("crm", seqs[:1])
    await store.retry_dead("crm", seqs[1:2])
    assert await store.dead_since(since=now, until=now) == {"crm": 1}


async def test_keywords_are_read_once_with_the_time_of_their_last(store):
    await add(store, 1, keyword="JOIN")
    await add(store, 2, keyword="VIP")
    await add(store, 3, keyword="JOIN")
    assert await store.keywords(after=0, limit=2) == (2, {"JOIN": at(1), "VIP": at(2)})
    assert await store.keywords(after=2, limit=9) == (3, {"JOIN": at(3)})
    assert await store.keywords(after=3, limit=9) == (3, {})


async def test_since_when_so_many_came_to_quarantine(store):
    for second in range(3):
        callback = RawCallback("sumotext", "GET", b"x=1", "", b"", at(second))
        await store.quarantine(callback, 422, "no kind")
    assert await store.quarantined_since(2) == at(1)
    assert await store.quarantined_since(3) == at(0)
    assert await store.quarantined_since(4) is None
