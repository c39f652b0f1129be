"""The store on a real file: what it promises to the rest of the relay."""

import asyncio
import contextlib
import sqlite3
import subprocess
import sys

import pytest
from arrivals import NOW, arrival, claim_one, delivered, ids, waiting

from relay.event import RawCallback
from relay.store import (
    Attempt,
    ClaimResult,
    EventFilter,
    Settlement,
    SinkCounts,
    SinkState,
    State,
    StoreError,
    StoreFull,
    StoreLocked,
    StoreNewer,
)
from relay.store.sqlite import SqliteStore
from relay.store.sqlite import claim as claims
from relay.store.sqlite.migrate import migrations

SECOND = 1_000_000


@pytest.fixture
def path(tmp_path):
    return tmp_path / "relay.db"


@pytest.fixture
async def store(path, clock):
    opened = await SqliteStore.open(path, clock=clock)
    yield opened
    await opened.close()


async def crash(store: SqliteStore) -> None:
    """Let go of the file with everything in flight still in flight, as a kill -9 does."""
    await store.close(clean=False)


def seqs(claimed) -> list[int]:
    return [claim.seq for claim in claimed.claims]


def dead_letter(claim) -> Settlement:
    return Settlement(claim.sink, claim.seq, State.DEAD, error="400")


def in_an_hour(clock) -> int:
    return int(clock.now() * SECOND) + 3600 * SECOND


async def test_an_added_event_can_be_read_with_its_raw_callback_and_deliveries(store):
    new = arrival(sinks=("archive", "crm"))
    receipt = await store.add(new)
    row = await store.event(receipt.id)
    assert row.event == new.event
    assert row.callback == new.callback
    assert [(each.sink, each.state) for each in row.deliveries] == [
        ("archive", State.PENDING),
        ("crm", State.PENDING),
    ]
    assert await store.event_count() == 1


async def test_many_adds_at_once_share_a_commit_and_keep_their_order(store):
    new = [arrival() for _ in range(200)]
    before = store.statistics()["commits"]
    await asyncio.gather(*(store.add(each) for each in new))
    assert store.statistics()["commits"] - before < 10
    rows = await store.events_after(EventFilter(), after=0)
    assert [row.event.id for row in rows] == [each.event.id for each in new]
    assert [row.seq for row in rows] == list(range(1, 201))


async def test_a_message_id_seen_before_stores_nothing_new(store):
    first = await store.add(arrival(1, message_id="abc"))
    again = await store.add(arrival(1, message_id="abc"))
    other = await store.add(arrival(1, message_id="abc", source="second"))
    together = await asyncio.gather(*(store.add(arrival(1, message_id="new")) for _ in range(3)))
    assert (again.id, again.repeated) == (first.id, True)
    assert not other.repeated
    assert len({receipt.id for receipt in together}) == 1
    assert await store.event_count() == 3
    assert (await store.sink_counts())["crm"].pending == 3


async def test_one_bad_arrival_does_not_take_the_others_with_it(store):
    good = arrival()
    results = await asyncio.gather(
        store.add(good), store.add(good), store.add(arrival()), return_exceptions=True
    )
    assert sorted(type(result).__name__ for result in results) == [
        "Receipt",
        "Receipt",
        "StoreError",
    ]
    assert await store.event_count() == 2
    assert (await store.sink_counts())["crm"].pending == 2


async def test_claims_follow_the_order_of_receipt(store):
    new = [arrival() for _ in range(5)]
    for each in new:
        await store.add(each)
    assert await ids(store, limit=3) == [each.event.id for each in new[:3]]
    assert await ids(store, limit=3) == [each.event.id for each in new[3:]]
    assert await ids(store) == []


async def test_one_contact_is_never_claimed_twice_at_once(store):
    first, second, third = arrival(7), arrival(7), arrival(7)
    other = arrival(8)
    for each in (first, second, third, other):
        await store.add(each)
    claimed = (await store.claim("crm", 10)).claims
    assert [claim.event.id for claim in claimed] == [first.event.id, other.event.id]
    assert await ids(store) == []
    await store.settle([delivered(claimed[0])])
    assert await ids(store) == [second.event.id]


async def test_a_contact_waits_for_its_older_delivery_that_is_to_be_retried(store, clock):
    first, second, other = arrival(7), arrival(7), arrival(8)
    for each in (first, second, other):
        await store.add(each)
    claims = (await store.claim("crm", 10)).claims
    due = int(clock.now() * SECOND) + 60 * SECOND
    await store.settle([waiting(claims[0], due), delivered(claims[1])])
    assert await store.claim("crm", 5) == ClaimResult([], more=False, due=due)
    await clock.advance(61)
    retried = await claim_one(store)
    assert (retried.event.id, retried.attempt) == (first.event.id, 2)
    await store.settle([delivered(retried)])
    assert await ids(store) == [second.event.id]


async def test_without_order_only_a_batch_holds_a_contact_once(store):
    for _ in range(3):
        await store.add(arrival(7))
    first = await claim_one(store, ordered=False)
    second = await claim_one(store, ordered=False)
    assert first.seq < second.seq


async def test_a_long_run_of_one_contact_is_gone_through_in_order(store):
    new = [arrival(7) for _ in range(300)]
    await asyncio.gather(*(store.add(each) for each in new))
    seen = []
    while len(seen) < 300:
        claimed = await store.claim("crm", 10)
        assert len(claimed.claims) == 1
        seen.append(claimed.claims[0].event.id)
        await store.settle([delivered(claimed.claims[0])])
    assert seen == [each.event.id for each in new]


async def test_an_opt_out_passes_everybody_else(store):
    for _ in range(50):
        await store.add(arrival())
    stop = arrival(7, consent="opt_out")
    await store.add(stop)
    claim = await claim_one(store, urgent=True)
    assert (claim.event.id, claim.urgent) == (stop.event.id, True)


async def test_an_opt_out_takes_its_contacts_older_events_to_the_front_with_it(store):
    for _ in range(50):
        await store.add(arrival())
    older, stop = arrival(7), arrival(7, consent="opt_out")
    await store.add(older)
    for _ in range(50):
        await store.add(arrival())
    await store.add(stop)
    first = await claim_one(store, urgent=True)
    assert first.event.id == older.event.id
    await store.settle([delivered(first)])
    assert await ids(store, limit=1) == [stop.event.id]


async def test_an_opt_out_waits_for_what_is_in_flight_of_its_contact(store):
    older, stop = arrival(7), arrival(7, consent="opt_out")
    await store.add(older)
    claim = await claim_one(store)
    await store.add(stop)
    assert await ids(store, urgent=True) == []
    await store.settle([delivered(claim)])
    assert await ids(store, urgent=True) == [stop.event.id]


async def test_an_opt_out_overtakes_a_retry_and_follows_it_once_more(store, clock):
    join, middle = arrival(7, consent="opt_in"), arrival(7)
    stop = arrival(7, consent="opt_out")
    for each in (join, middle):
        await store.add(each)
    claim = await claim_one(store)
    await store.settle([waiting(claim, in_an_hour(clock))])
    await store.add(stop)
    overtaking = await claim_one(store)
    assert overtaking.event.id == stop.event.id
    await store.settle([delivered(overtaking)])
    await clock.advance(3601)
    landed = []
    while claims := (await store.claim("crm", 10)).claims:
        landed += [(each.event.id, each.stale, each.replayed) for each in claims]
        await store.settle([delivered(each) for each in claims])
    assert landed == [
        (join.event.id, True, False),
        (middle.event.id, True, False),
        (stop.event.id, False, True),
    ]


async def test_an_opt_out_goes_as_soon_as_the_older_one_in_flight_has_failed(store, clock):
    """It was blocked behind what was being sent, which now waits an hour for its retry."""
    await store.add(arrival(1))
    first = await claim_one(store, urgent=False)
    opt_out = await store.add(arrival(1, consent="opt_out"))
    assert await ids(store, urgent=True) == []
    await store.settle([waiting(first, in_an_hour(clock))])
    assert await ids(store, urgent=True) == [opt_out.id]


async def test_an_opt_out_goes_behind_what_overtook_the_same_retry(store, clock):
    """Of two that may overtake, the second waits for the first, not for the retry."""
    await store.add(arrival(1))
    await store.settle([waiting(await claim_one(store), in_an_hour(clock))])
    second = await store.add(arrival(1))
    opt_out = await store.add(arrival(1, consent="opt_out"))
    claim = await claim_one(store, urgent=True)
    assert claim.event.id == second.id
    await store.settle([delivered(claim)])
    assert await ids(store, urgent=True) == [opt_out.id]


@pytest.mark.parametrize("looks", [1, 2])
async def test_an_opt_out_goes_behind_what_was_blocked_by_the_same_retry(store, clock, looks):
    """Whether retries or new events come first in a claim: they take turns."""
    await store.add(arrival(1))
    retry = await claim_one(store)
    await store.add(arrival(1))
    for _ in range(looks):
        assert await ids(store) == []
    await store.add(arrival(1, consent="opt_out"))
    await store.settle([waiting(retry, in_an_hour(clock))])
    assert seqs(await store.claim("crm", 5, urgent=True)) == [2]


async def test_a_replayed_opt_in_is_followed_by_the_opt_out(store):
    join, stop = arrival(7, consent="opt_in"), arrival(7, consent="opt_out")
    for each in (join, stop):
        await store.add(each)
        await store.settle([delivered(await claim_one(store))])
    assert await store.replay("crm", [1]) == 1
    again = await claim_one(store)
    assert (again.event.id, again.replayed, again.stale) == (join.event.id, True, True)
    await store.settle([delivered(again)])
    assert await ids(store) == [stop.event.id]


async def test_a_copy_of_an_old_opt_in_is_followed_by_the_opt_out(store):
    join, stop = arrival(7, consent="opt_in"), arrival(7, consent="opt_out")
    for each in (join, stop):
        await store.add(each)
        await store.settle([delivered(await claim_one(store))])
    await store.add(arrival(7, consent="opt_in", copy_of=join.event.id))
    assert await store.opted_out("sumotext", join.event.data["mobile"])
    copy = await claim_one(store)
    await store.settle([delivered(copy)])
    assert await ids(store) == [stop.event.id]


async def test_a_later_opt_in_is_the_last_word(store):
    stop, join = arrival(7, consent="opt_out"), arrival(7, consent="opt_in")
    older = arrival(7)
    for each in (older, stop, join):
        await store.add(each)
    for _ in range(3):
        await store.settle([delivered(await claim_one(store))])
    assert not await store.opted_out("sumotext", join.event.data["mobile"])
    await store.replay("crm", [1])
    await store.settle([delivered(await claim_one(store))])
    assert await ids(store) == []


@pytest.mark.parametrize("way", ["revived", "replayed", "copied"])
async def test_an_older_opt_out_is_followed_by_the_opt_in(store, way):
    """What the contact said last is what the sink gets last, whichever word that is."""
    stop, join = arrival(7, consent="opt_out"), arrival(7, consent="opt_in")
    await store.add(stop)
    claim = await claim_one(store)
    dead = way == "revived"
    await store.settle([dead_letter(claim) if dead else delivered(claim)])
    await store.add(join)
    await store.settle([delivered(await claim_one(store))])
    if way == "copied":
        await store.add(arrival(7, consent="opt_out", copy_of=stop.event.id))
    else:
        await (store.retry_dead if dead else store.replay)("crm", [1])
    await store.settle([delivered(await claim_one(store))])
    again = await claim_one(store)
    assert (again.event.id, again.replayed, again.stale) == (join.event.id, True, False)
    await store.settle([delivered(again)])
    assert await ids(store) == []
    assert not await store.opted_out("sumotext", join.event.data["mobile"])


async def test_an_older_opt_out_that_waited_for_a_retry_is_followed_by_the_opt_in(store, clock):
    """A sink with `order: none` gets the later word first."""
    stop, join = arrival(7, consent="opt_out"), arrival(7, consent="opt_in")
    await store.add(stop)
    await store.settle([waiting(await claim_one(store, ordered=False), in_an_hour(clock))])
    await store.add(join)
    await store.settle([delivered(await claim_one(store, ordered=False))])
    await clock.advance(3600)
    late = await claim_one(store, ordered=False)
    assert late.event.id == stop.event.id
    await store.settle([delivered(late)])
    assert await ids(store, ordered=False) == [join.event.id]


@pytest.mark.parametrize("ordered", [True, False])
async def test_a_replayed_opt_out_is_never_in_flight_with_another_of_its_contact(store, ordered):
    """Two at once could reach the sink in either order."""
    stop = arrival(7, consent="opt_out", sinks=(), errors={"crm": "when: no such name"})
    await store.add(stop)
    await store.add(arrival(7, consent="opt_in"))
    await store.retry_dead("crm", [1])
    assert await ids(store, ordered=ordered) == [stop.event.id]
    assert await ids(store, ordered=ordered) == []


async def test_an_opt_out_released_after_a_later_opt_in_does_not_undo_it(store):
    stop = arrival(7, consent="opt_out", received=NOW)
    join = arrival(7, consent="opt_in", received=NOW + SECOND)
    kept = await store.quarantine(stop.callback, 422, "no kind")
    await store.add(join)
    await store.settle([delivered(await claim_one(store))])
    await store.release(kept, [stop])
    assert not await store.opted_out("sumotext", join.event.data["mobile"])
    late = await claim_one(store)
    assert late.event.id == stop.event.id
    await store.settle([delivered(late)])
    assert await ids(store) == [join.event.id]


async def test_what_is_released_without_a_word_needs_no_opt_in_after_it(store):
    """Only what a sink could take for the last word is put right."""
    form = arrival(7, received=NOW)
    join = arrival(7, consent="opt_in", received=NOW + SECOND)
    kept = await store.quarantine(form.callback, 422, "no kind")
    await store.add(join)
    await store.settle([delivered(await claim_one(store))])
    await store.release(kept, [form])
    await store.settle([delivered(await claim_one(store))])
    assert await ids(store) == []


async def test_what_is_replayed_goes_before_a_younger_retry(store):
    await store.add(arrival(7))
    await store.settle([delivered(await claim_one(store))])
    await store.add(arrival(7))
    (younger,) = (await store.claim("crm", 1)).claims
    await store.replay("crm", [1])
    assert not (await store.claim("crm", 5)).claims
    await store.settle([Settlement("crm", younger.seq, State.WAITING, due=NOW)])
    assert seqs(await store.claim("crm", 5)) == [1]


@pytest.mark.parametrize("errors", [{"crm": "when: no such name"}, {}], ids=["revived", "made"])
async def test_what_is_replayed_waits_for_what_is_older_and_still_to_come(store, errors):
    await store.add(arrival(7))
    await store.add(arrival(7, sinks=(), errors=errors))
    assert await store.replay("crm", [2]) == 1
    assert seqs(await store.claim("crm", 5)) == [1]
    await store.settle([Settlement("crm", 1, State.DELIVERED)])
    assert seqs(await store.claim("crm", 5)) == [2]
    assert (await store.sink_counts())["crm"] == SinkCounts(pending=1, delivered=1)


async def test_retries_and_new_events_take_turns(store, clock):
    await store.add(arrival())
    retry = await claim_one(store)
    await store.settle([waiting(retry, int(clock.now() * SECOND) + SECOND)])
    for _ in range(5):
        await store.add(arrival())
    await clock.advance(2)
    first, second = await ids(store, limit=1), await ids(store, limit=1)
    assert retry.event.id in first + second
    assert first != second


async def test_put_back_costs_no_attempt(store):
    await store.add(arrival())
    claim = await claim_one(store)
    await store.settle([Settlement.put_back("crm", claim.seq)])
    assert (await claim_one(store)).attempt == 1


async def test_a_settlement_of_what_is_not_in_flight_changes_nothing(store):
    await store.add(arrival())
    claim = await claim_one(store)
    await store.settle([delivered(claim)])
    await store.settle([Settlement("crm", claim.seq, State.DEAD)])
    assert (await store.sink_counts())["crm"] == SinkCounts(pending=0, delivered=1, dead=0)


async def test_a_failed_attempt_is_recorded(store):
    new = arrival()
    await store.add(new)
    claim = await claim_one(store)
    attempt = Attempt(NOW, 0.25, "answered 400", 400, "no such field")
    await store.settle([Settlement("crm", claim.seq, State.DEAD, error="no", attempt=attempt)])
    row = await store.event(new.event.id)
    assert row.attempts == [("crm", 1, attempt)]
    (dead,) = await store.deliveries([State.DEAD])
    assert (dead.sink, dead.event_id, dead.error) == ("crm", new.event.id, "no")


async def test_of_very_many_attempts_the_first_and_the_last_are_kept(store):
    receipt = await store.add(arrival())
    for number in range(1, 61):
        claim = await claim_one(store)
        attempt = Attempt(number, 0.1, "429 Too Many Requests", 429)
        await store.settle([Settlement("crm", claim.seq, State.WAITING, attempt=attempt)])
    row = await store.event(receipt.id)
    assert [number for _, number, _ in row.attempts] == [*range(1, 21), *range(41, 61)]


async def test_a_when_that_raised_is_a_dead_delivery(store):
    await store.add(arrival(errors={"crm": "when: no such name"}))
    assert (await store.sink_counts())["crm"] == SinkCounts(dead=1)
    assert await store.retry_dead("crm", [1]) == 1
    assert (await claim_one(store)).replayed


async def test_what_was_in_flight_at_a_crash_comes_again_one_at_a_time(store, path, clock):
    await store.add(arrival())
    await store.add(arrival())
    await store.claim("crm", 10)
    await crash(store)
    again = await SqliteStore.open(path, clock=clock)
    (first,) = await again.claim_after_crash("crm")
    assert (first.seq, first.attempt) == (1, 1)
    await again.settle([delivered(first)])
    (second,) = await again.claim_after_crash("crm")
    assert second.seq == 2
    assert await again.claim_after_crash("crm") == []
    await again.close()


async def test_no_contact_is_stuck_behind_what_a_crash_put_back(store, path, clock):
    await store.add(arrival(7))
    (first,) = (await store.claim("crm", 1)).claims
    await store.settle([Settlement("crm", first.seq, State.WAITING, due=NOW + 10 * SECOND)])
    await store.add(arrival(7, consent="opt_out"))
    assert seqs(await store.claim("crm", 5)) == [2]
    await clock.advance(20)
    assert not (await store.claim("crm", 5)).claims  # the first waits for the opt-out now
    await crash(store)
    store = await SqliteStore.open(path, clock=clock)
    assert seqs(await store.claim("crm", 5)) == [1]
    await store.close()


async def test_what_is_in_flight_at_a_clean_stop_is_put_back_and_counts_no_crash(
    store, path, clock
):
    await store.add(arrival())
    await store.claim("crm", 10)
    await store.close()
    again = await SqliteStore.open(path, clock=clock)
    assert await again.claim_after_crash("crm") == []
    claim = await claim_one(again)
    assert claim.attempt == 1
    await again.close()


async def test_only_what_was_alone_in_flight_at_three_crashes_is_dead(store, path, clock):
    await store.add(arrival())
    await store.add(arrival())
    for _ in range(4):
        await store.claim("crm", 10)
        await crash(store)
        store = await SqliteStore.open(path, clock=clock)
    assert (await store.sink_counts())["crm"].dead == 0
    for alone in (1, 2, 3):
        (claim,) = await store.claim_after_crash("crm", only_repeated=True)
        assert claim.seq == 1, alone
        await crash(store)
        store = await SqliteStore.open(path, clock=clock)
    assert (await store.sink_counts())["crm"] == SinkCounts(pending=1, dead=1)
    await store.close()


@pytest.mark.parametrize("ahead", [60, 3 * 3600, 10 * 365 * 86400])
@pytest.mark.parametrize("restart", [False, True])
async def test_a_retry_waits_no_longer_when_the_clock_is_set_back(
    store, path, clock, ahead, restart
):
    await store.add(arrival())
    clock.jump(ahead)
    claim = await claim_one(store)
    await store.settle([waiting(claim, int((clock.now() + 5) * SECOND))])
    clock.jump(-ahead)
    if restart:
        await store.close()
        store = await SqliteStore.open(path, clock=clock)
    claimed = await store.claim("crm", 5)
    assert (claimed.claims, claimed.due) == ([], int((clock.now() + 5) * SECOND))
    await clock.advance(5)
    assert await ids(store) == [claim.event.id]
    await store.close()


async def test_a_retry_is_due_at_once_where_the_clock_is_set_back_before_it_is_written(
    store, clock
):
    await store.add(arrival())
    claim = await claim_one(store)
    await store.settle([waiting(claim, int((clock.now() + 10 * 365 * 86400) * SECOND))])
    assert await ids(store) == [claim.event.id]


@pytest.mark.parametrize(("size", "left"), [(10_000, [7, 8, 9]), (10**6, range(10))])
async def test_the_quarantine_drops_its_oldest_above_its_size(tmp_path, caplog, size, left):
    """The second one is the control."""
    kept = []
    for half in (range(5), range(5, 10)):  # what an earlier process has kept counts, too
        store = await SqliteStore.open(tmp_path / "relay.db", quarantine_size=size)
        for number in half:
            callback = RawCallback("sumotext", "POST", b"", "", bytes([number]) * 2_500, number)
            kept.append(await store.quarantine(callback, 422, "no"))
        found = await store.quarantined()
        await store.close()
    assert [row.id for row in reversed(found)] == [kept[number] for number in left]
    assert ("the quarantine is full" in caplog.text) == (size < 10**6)


async def test_subscribers_hear_which_sinks_have_work_and_whether_it_is_urgent(store):
    heard = []
    store.subscribe(heard.append)
    await store.add(arrival(sinks=("a", "b")))
    await store.add(arrival(sinks=("b",), consent="opt_out"))
    assert heard == [{"a": False, "b": False}, {"b": True}]


async def test_counters_stand_for_what_is_there_after_a_reopening(store, path, clock):
    for _ in range(5):
        await store.add(arrival())
    claims = (await store.claim("crm", 3)).claims
    await store.settle([delivered(claims[0]), Settlement("crm", claims[1].seq, State.DEAD)])
    await crash(store)
    again = await SqliteStore.open(path, clock=clock)
    assert (await again.sink_counts())["crm"] == SinkCounts(pending=3, delivered=1, dead=1)
    await again.close()


async def test_a_sinks_state_outlives_a_restart(store, path, clock):
    await store.save_sink_state("crm", SinkState(paused="401", probe_at=5, active=12.5))
    await store.close()
    again = await SqliteStore.open(path, clock=clock)
    assert (await again.sink_states())["crm"] == SinkState(paused="401", probe_at=5, active=12.5)
    await again.close()


async def test_deliveries_of_a_renamed_sink_go_on_under_the_new_name(store):
    await store.add(arrival(sinks=("old",)))
    assert await store.rename_sink("old", "new") == 1
    assert (await claim_one(store, "new")).sink == "new"
    with pytest.raises(ValueError, match="no sink older"):
        await store.rename_sink("older", "other")


async def test_a_sink_takes_over_what_waits_for_another_though_it_has_deliveries(store):
    older, younger = arrival(7, sinks=("old",)), arrival(7, sinks=("new",))
    both = arrival(8, sinks=("old", "new"))
    for each in (older, younger, both):
        await store.add(each)
    assert await store.rename_sink("old", "new") == 1
    counts = await store.sink_counts()
    assert (counts["old"].pending, counts["new"].pending) == (0, 3)
    assert set(await ids(store, "new")) == {older.event.id, both.event.id}


@pytest.mark.parametrize("consent", [None, "opt_out"])
async def test_what_a_sink_takes_over_waits_for_what_it_has_of_older_ones(store, consent):
    await store.add(arrival(7, sinks=("new",)))
    await store.add(arrival(7, sinks=("old",), consent=consent))
    await store.rename_sink("old", "new")
    assert seqs(await store.claim("new", 5)) == [1]
    await store.settle([Settlement("new", 1, State.DELIVERED)])
    assert seqs(await store.claim("new", 5)) == [2]


async def test_discarded_deliveries_are_not_delivered(store):
    await store.add(arrival())
    assert await store.discard("crm", None) == 1
    assert await ids(store) == []
    assert (await store.sink_counts())["crm"] == SinkCounts()


async def test_replay_makes_deliveries_for_a_sink_that_never_had_them(store):
    await store.add(arrival(sinks=()))
    assert await store.replay("late", [1]) == 1
    assert await store.replay("late", [1]) == 0
    assert (await claim_one(store, "late")).replayed


async def test_a_delivery_that_was_never_claimed_is_shown_as_pending(store):
    receipt = await store.add(arrival(sinks=("crm", "archive")))
    await store.claim("archive", 1)
    row = await store.event(receipt.id)
    states = {each.sink: each.state for each in row.deliveries}
    assert states == {"archive": State.IN_FLIGHT, "crm": State.PENDING}
    (pending,) = await store.deliveries([State.PENDING])
    assert (pending.sink, pending.event_id, pending.attempts) == ("crm", receipt.id, 0)


async def test_a_sink_gets_only_what_goes_to_it(store, monkeypatch):
    monkeypatch.setattr(claims, "SCAN", 2)
    for number in range(20):
        await store.add(arrival(sinks=("rare", "crm") if number == 15 else ("crm",)))
    found = []
    for _ in range(10):
        claimed = await store.claim("rare", 5)
        found += seqs(claimed)
        if not claimed.more:
            break
    assert found == [16]
    assert claimed.due is None


async def test_a_sink_that_comes_later_gets_nothing_of_before(store):
    await store.add(arrival())
    await store.add(arrival(sinks=("crm", "new")))
    assert seqs(await store.claim("new", 5)) == [2]


async def test_replay_leaves_alone_what_is_still_to_come(store):
    await store.add(arrival())
    assert await store.replay("crm", [1]) == 0
    assert (await store.sink_counts())["crm"].pending == 1
    (claim,) = (await store.claim("crm", 5)).claims
    assert not claim.replayed


async def test_everything_of_a_sink_can_be_discarded_claimed_or_not(store):
    for _ in range(3):
        await store.add(arrival())
    (claim,) = (await store.claim("crm", 1)).claims
    assert await store.discard("crm", None) == 2
    await store.settle([delivered(claim)])
    counts = (await store.sink_counts())["crm"]
    assert (counts.pending, counts.delivered) == (0, 1)
    assert not (await store.claim("crm", 5)).claims


async def test_the_last_thousand_callbacks_with_a_wrong_token_are_kept(store):
    callback = arrival().callback
    await asyncio.gather(*(store.quarantine(callback, 401, "token") for _ in range(1_010)))
    kept = await store.quarantine(callback, 422, "no kind")
    assert await store.quarantine_count() == 1_001
    found = await store.quarantined_one(kept)
    assert (found.status, found.reason, found.callback) == (422, "no kind", callback)


async def test_a_flood_of_wrong_tokens_drives_out_none_of_another_sender(store):
    """From one address, and from fifty networks of IPv6 with many addresses each."""
    vendor = arrival().callback._replace(sender="198.51.100.7")
    flood = vendor._replace(sender="203.0.113.1")
    first = [await store.quarantine(vendor, 401, "token") for _ in range(2)]
    for start in (0, 1_500):
        await asyncio.gather(*(store.quarantine(flood, 401, "token") for _ in range(1_000)))
        spread = (
            flood._replace(sender=f"2001:db8:0:{number % 50:x}::{number:x}")
            for number in range(start, start + 1_500)
        )
        await asyncio.gather(*(store.quarantine(each, 401, "token") for each in spread))
    assert await store.quarantine_count() == 1_000
    for each in first:
        assert (await store.quarantined_one(each)).callback == vendor


async def test_a_quarantined_callback_keeps_all_that_is_known_of_it(store):
    callback = arrival().callback._replace(
        test=True, encoding="gzip", sender="192.0.2.7", token_digest=b"\xff\x00"
    )
    kept = await store.quarantine(callback, 401, "token")
    assert (await store.quarantined_one(kept)).callback == callback
    plain = arrival().callback
    kept = await store.quarantine(plain, 422, "no kind")
    assert (await store.quarantined_one(kept)).callback == plain


async def test_an_event_keeps_the_encoding_of_its_body(store):
    new = arrival()
    new = new._replace(callback=new.callback._replace(encoding="gzip"))
    await store.add(new)
    assert (await store.event(new.event.id)).callback == new.callback


async def test_release_turns_a_quarantined_callback_into_an_event(store):
    new = arrival()
    kept = await store.quarantine(new.callback, 422, "no kind")
    (receipt,) = await store.release(kept, [new])
    assert receipt.id == new.event.id
    assert (await store.quarantine_count(), await store.event_count()) == (0, 1)
    assert await store.release(kept, [arrival()]) is None
    assert await store.event_count() == 1


async def test_an_opt_in_released_after_a_later_opt_out_does_not_undo_it(store):
    join = arrival(7, consent="opt_in", received=NOW)
    stop = arrival(7, consent="opt_out", received=NOW + SECOND)
    kept = await store.quarantine(join.callback, 422, "no kind")
    await store.add(stop)
    await store.settle([delivered(await claim_one(store))])
    await store.release(kept, [join])
    assert await store.opted_out("sumotext", join.event.data["mobile"])
    late = await claim_one(store)
    assert late.event.id == join.event.id
    await store.settle([delivered(late)])
    assert await ids(store) == [stop.event.id]


async def test_an_opt_in_released_after_an_earlier_opt_out_is_the_last_word(store):
    stop = arrival(7, consent="opt_out", received=NOW)
    join = arrival(7, consent="opt_in", received=NOW + SECOND)
    kept = await store.quarantine(join.callback, 422, "no kind")
    await store.add(stop)
    await store.release(kept, [join])
    assert not await store.opted_out("sumotext", join.event.data["mobile"])


async def test_lists_page_from_the_newest(store):
    new = [arrival(keyword=f"K{number}") for number in range(7)]
    for each in new:
        await store.add(each)
    first = await store.events(EventFilter(), limit=3)
    second = await store.events(EventFilter(), limit=3, before=first[-1].seq)
    assert [row.seq for row in first + second] == [7, 6, 5, 4, 3, 2]
    assert [row.seq for row in await store.events(EventFilter(keyword="k3"))] == [4]


async def test_a_second_process_cannot_own_the_file(store, path, clock):
    with pytest.raises(StoreLocked, match="in use"):
        await SqliteStore.open(path, clock=clock)


async def test_a_newer_schema_is_refused(store, path, clock):
    await store.close()
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version = {len(migrations()) + 1}")
    connection.close()
    with pytest.raises(StoreNewer, match="newer release"):
        await SqliteStore.open(path, clock=clock)


async def test_a_file_that_is_no_database_is_refused(path, clock):
    path.write_bytes(b"not a database, but long enough to be looked at" * 100)
    with pytest.raises(StoreError, match=r"relay\.db cannot be opened"):
        await SqliteStore.open(path, clock=clock)


async def test_others_cannot_read_the_file(store, path):
    await store.add(arrival())
    assert path.stat().st_mode & 0o007 == 0


async def test_nul_and_lone_surrogates_survive(store):
    new = arrival(keyword="A\0B")
    await store.add(new)
    assert (await store.event(new.event.id)).event.data["keyword"] == "A\0B"


LOCKING = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def locked(path):
    """Another program holds the write lock, as a backup or a person's sqlite3 may."""
    command = [sys.executable, "-c", LOCKING, path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        yield process
        process.kill()


async def test_what_another_program_locks_for_a_moment_is_waited_for(store, path):
    with locked(path) as process:
        adding = asyncio.create_task(store.add(arrival()))
        await asyncio.sleep(0.2)
        assert not adding.done()
        process.kill()
        await adding
    assert await store.event_count() == 1


async def test_what_another_program_locks_for_long_is_tried_again_later(store, path):
    await store.database.writer.submit(lambda connection: connection.set_busy_timeout(10))
    with locked(path), pytest.raises(StoreFull, match="another program"):
        await store.add(arrival())
    await store.add(arrival())


async def test_what_cannot_be_read_is_an_error_of_the_store(store):
    with pytest.raises(StoreError, match="cannot be read"):
        await store.database.read(lambda connection: connection.execute("SELECT nothing"))


async def test_a_claim_is_no_larger_than_fits_the_memory(store):
    """Two hundred of the largest events would be half a gigabyte."""
    third = "x" * (claims.LARGEST_CLAIM * 2 // 5)
    stored = [await store.add(arrival(message=third)) for _ in range(5)]
    found = [await store.claim("crm", 10) for _ in range(3)]
    assert [[each.event.id for each in claimed.claims] for claimed in found] == [
        [each.id for each in stored[:2]],
        [each.id for each in stored[2:4]],
        [each.id for each in stored[4:]],
    ]
    assert [(claimed.cut, claimed.more) for claimed in found] == [(True, True)] * 2 + [
        (False, False)
    ]


async def test_an_event_larger_than_a_claim_comes_alone(store):
    small, large = arrival(), arrival(message="x" * claims.LARGEST_CLAIM)
    for each in (large, small):
        await store.add(each)
    for each in (large, small):
        (claim,) = (await store.claim("crm", 10)).claims
        assert claim.event.id == each.event.id
