"""Delivery: real store, a sink that is told what to do, a clock that is moved by hand."""

import asyncio
import gc
import logging
import weakref

import pytest
from arrivals import arrival, mobile
from workers import (
    PATIENCE,
    BatchSink,
    CheckedSink,
    ScriptedSink,
    counts,
    eventually,
    fail,
    landed,
    reached,
    running,
    states,
    status_error,
)

from relay.clock import SystemClock
from relay.config.model import BreakerSettings, RetrySettings
from relay.config.sinks import Batch
from relay.delivery.breaker import FailureLog, LastError
from relay.delivery.gate import QuotaUse, SinkStatus
from relay.outcome import Delivered, Pause, Reject, Retry
from relay.quota import LOOK_AGAIN, Quota
from relay.rate_limit import Limiter
from relay.send_context import current
from relay.sink import Mistake, Notice
from relay.store import EventFilter, State
from relay.store.sqlite import SqliteStore
from relay.templating.expressions import Compiler
from relay.units import Rate

DAY = 86400.0
LOOK = 1.1 * LOOK_AGAIN
NO_WAIT = RetrySettings(initial="10ms", max="10ms")
NO_BREAKER = BreakerSettings(failures=1000)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "relay.db"


@pytest.fixture
async def store(path, clock):
    opened = await SqliteStore.open(path, clock=clock)
    yield opened
    await opened.close()


async def add(store, *arrivals) -> list[str]:
    return [(await store.add(each)).id for each in arrivals]


async def pass_time(clock, seconds: float, condition, *, step: float | None = None) -> None:
    """Move the clock on, a fiftieth of `seconds` at a time, until the condition holds."""
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await clock.advance(step or seconds / 50)
            await asyncio.sleep(0.003)


async def settled(store) -> None:
    """Wait until nothing is pending or in flight."""

    async def none() -> bool:
        return not {State.PENDING, State.IN_FLIGHT} & set(await states(store))

    await eventually(none)


async def test_deliveries_arrive_in_order_with_their_record(store, clock):
    sink = ScriptedSink()
    async with running(store, clock, sink):
        ids = await add(store, *(arrival() for _ in range(5)))
        await reached(store, 0, 5, 0)
    assert sink.ids == ids
    assert sink.sent[0].record["data"]["keyword"] == "JOIN"
    assert (sink.sent[0].attempt, sink.sent[0].replayed, sink.sent[0].stale) == (1, False, False)


async def test_others_go_on_while_one_contact_waits(store, clock):
    gate = asyncio.Event()
    slow = mobile(7)
    sink = ScriptedSink(lambda d: gate.wait() if d.event.data["mobile"] == slow else None)
    async with running(store, clock, sink, concurrency=4):
        first, second, *_ = await add(
            store, arrival(7), arrival(7), *(arrival() for _ in range(20))
        )
        await reached(store, 2, 20, 0)
        assert second not in sink.ids
        gate.set()
        await reached(store, 0, 22, 0)
    assert sink.ids.index(first) < sink.ids.index(second)


async def test_never_more_at_once_than_the_concurrency(store, clock):
    gate = asyncio.Event()
    sink = ScriptedSink(lambda _: gate.wait())
    async with running(store, clock, sink, concurrency=3):
        await add(store, *(arrival() for _ in range(20)))
        await eventually(lambda: sink.sending == 3)
        await asyncio.sleep(0.05)
        gate.set()
        await reached(store, 0, 20, 0)
    assert sink.most == 3


async def test_a_failed_attempt_waits_in_the_store_and_is_recorded(store, clock):
    sink = ScriptedSink(lambda d: fail(status_error(503)) if d.attempt < 3 else None)
    async with running(store, clock, sink):
        (event_id,) = await add(store, arrival())
        await sink.next()
        await eventually(lambda: states(store))
        await pass_time(clock, 60, lambda: len(sink.sent) == 3)
        await reached(store, 0, 1, 0)
    assert [delivery.attempt for delivery in sink.sent] == [1, 2, 3]
    row = await store.event(event_id)
    assert [(number, each.status, each.answer) for _, number, each in row.attempts] == [
        (1, 503, "the answer"),
        (2, 503, "the answer"),
    ]


async def test_a_retry_comes_when_it_is_due_and_not_later(store, clock):
    sink = ScriptedSink(lambda d: fail(Retry("no")) if d.attempt == 1 else None)
    start = clock.now()
    async with running(store, clock, sink):
        await add(store, arrival())
        await pass_time(clock, 60, lambda: len(sink.sent) == 2, step=0.5)
    assert clock.now() - start < 60  # a busy machine lets some seconds more pass


async def test_an_opt_out_waits_no_longer_when_the_clock_is_set_back(store, clock):
    sink = ScriptedSink(lambda d: fail(Retry("no")) if d.attempt == 1 else None)
    async with running(store, clock, sink):
        await add(store, arrival(consent="opt_out"))
        await sink.next()
        await landed(store)
        await eventually(lambda: clock.sleeping == 2)  # the feeder, until it is due
        clock.jump(-3 * 3600)
        start = clock.monotonic()
        await pass_time(clock, 60, lambda: len(sink.sent) == 2, step=0.5)
    assert clock.monotonic() - start < 3600  # and not three hours


async def test_dead_when_attempts_and_window_are_used_up_across_restarts(path, clock):
    """A restart in the middle changes neither the count of attempts nor the window."""
    sink = ScriptedSink(lambda _: Retry("no") and fail(Retry("no")))
    store = await SqliteStore.open(path, clock=clock)
    (event_id,) = await add(store, arrival())
    for _ in range(120):
        async with running(store, clock, sink):
            before = len(sink.sent)
            if (await counts(store))[2]:
                break
            await pass_time(clock, 7 * 3600, lambda before=before: len(sink.sent) > before)
        await store.close()
        store = await SqliteStore.open(path, clock=clock)
    assert await counts(store) == (0, 0, 1)
    attempts = (await store.event(event_id)).attempts
    numbers = [number for _, number, _ in attempts]  # the first and the last twenty are kept
    assert numbers[:14] == list(range(1, 15))
    assert numbers[-1] == len(sink.sent)
    assert attempts[-1][2].started - attempts[0][2].started >= 4 * DAY * 1_000_000
    await store.close()


async def test_retry_after_holds_the_whole_sink_and_opt_outs_too(store, clock):
    def answer(delivery):
        if len(sink.sent) == 1:
            fail(status_error(429, **{"retry-after": "3600"}))

    sink = ScriptedSink(answer)
    async with running(store, clock, sink) as worker:
        await add(store, arrival())
        await eventually(lambda: worker.status().state == "parked")
        await add(store, arrival(), arrival(consent="opt_out"))
        await pass_time(clock, 3500, lambda: clock.sleeping, step=3500)
        assert len(sink.sent) == 1
        await pass_time(clock, 300, lambda: len(sink.sent) > 1)
        await reached(store, 0, 3, 0)
    assert sink.sent[1].event.data["consent"] == "opt_out"


async def test_a_batch_that_is_told_to_wait_parks_the_sink_once(store, caplog):
    """The real clock goes on while the outcomes of a batch are learned one by one."""
    sink = BatchSink(lambda _: fail(Retry("busy", after=30)))
    async with running(store, SystemClock(), sink, batch=Batch(100, 0.0)) as worker:
        await worker.pause("until all are there")
        await add(store, *(arrival() for _ in range(100)))
        await worker.resume()
        await eventually(lambda: worker.status().state == "parked")
        await reached(store, 100, 0, 0)
    assert len([record for record in caplog.records if "parked" in record.message]) == 1


@pytest.mark.parametrize("back", [0, 3 * 3600])
async def test_a_park_outlives_a_restart_whatever_the_clock_says(path, clock, back):
    sink = ScriptedSink(lambda _: fail(Retry("wait", after=3600)) if len(sink.sent) == 1 else None)
    store = await SqliteStore.open(path, clock=clock)
    async with running(store, clock, sink) as worker:
        await add(store, arrival())
        await eventually(lambda: worker.status().state == "parked")
    await store.close()
    clock.jump(-back)
    store = await SqliteStore.open(path, clock=clock)
    async with running(store, clock, sink) as worker:
        await asyncio.sleep(0.05)
        assert worker.status().state == "parked"
        assert len(sink.sent) == 1
        start = clock.monotonic()
        await pass_time(clock, 3700, lambda: len(sink.sent) == 2)
        assert clock.monotonic() - start < 2 * 3600
        await reached(store, 0, 1, 0)
    await store.close()


async def test_retry_after_is_obeyed_for_a_day_at_the_most(store, clock):
    sink = ScriptedSink(lambda _: fail(Retry("wait", after=1e9)) if len(sink.sent) == 1 else None)
    async with running(store, clock, sink) as worker:
        await add(store, arrival())
        await eventually(lambda: worker.status().state == "parked")
        await pass_time(clock, DAY + 60, lambda: len(sink.sent) == 2)


async def test_the_breaker_parks_a_sink_that_is_down_and_spends_no_attempts(store, clock):
    """Down for ten days, longer than the retry window: nothing is dead, all arrives after."""
    down = True
    sink = ScriptedSink(lambda _: fail(status_error(503)) if down else None)
    retry = RetrySettings(attempts=2, window="1h")
    async with running(
        store, clock, sink, breaker=BreakerSettings(failures=3), retry=retry
    ) as worker:
        await add(store, *(arrival() for _ in range(20)))
        await eventually(lambda: worker.status().state == "parked")
        assert len(sink.sent) == 3
        for trial in range(24):
            await pass_time(clock, DAY, lambda n=trial: len(sink.sent) > 3 + n, step=DAY / 2.4)
        assert await counts(store) == (20, 0, 0)
        down = False
        await pass_time(clock, 3600, lambda: worker.status().state == "running")
        await pass_time(clock, 3600, lambda: len(set(sink.ids)) == 20, step=60)
        await reached(store, 0, 20, 0)


async def test_a_lost_connection_on_a_batch_is_one_failure(store, clock):
    """Twenty contacts in one request say no more of the sink than one; an opt-out goes at once."""
    sink = BatchSink()
    sink.answer = lambda batch: (
        fail(Retry("the connection broke")) if len(sink.sent) == 1 else [Delivered() for _ in batch]
    )
    await add(store, *(arrival(number) for number in range(20)))
    async with running(store, clock, sink, batch=Batch(20, 0.0)) as worker:
        await eventually(lambda: len(sink.sent) == 1)
        await landed(store)
        assert worker.status().state == "running"
        await add(store, arrival(30, consent="opt_out"))
        await reached(store, 20, 1, 0)


async def test_ten_batches_in_a_row_that_fail_open_the_breaker(store, clock):
    sink = BatchSink(lambda _: fail(Retry("the connection broke")))
    await add(store, *(arrival(number) for number in range(20)))
    async with running(store, clock, sink, batch=Batch(2, 0.0)) as worker:
        await eventually(lambda: worker.status().state == "parked")
        assert worker.breaker_open
    assert len(sink.sent) == 10


async def test_throttling_does_not_count_for_the_breaker(store, clock):
    sink = ScriptedSink(lambda _: fail(status_error(429)))
    async with running(store, clock, sink, breaker=BreakerSettings(failures=3)) as worker:
        await add(store, *(arrival() for _ in range(10)))
        await eventually(lambda: len(sink.sent) >= 10)
        assert worker.status().state == "running"


async def test_a_refused_record_is_dead_with_the_reason(store, clock):
    bad = mobile(7)
    sink = ScriptedSink(
        lambda d: fail(status_error(400)) if d.event.data["mobile"] == bad else None
    )
    async with running(store, clock, sink):
        _, event_id, _ = await add(store, arrival(), arrival(7), arrival())
        await reached(store, 0, 2, 1)
    (dead,) = await store.deliveries([State.DEAD])
    assert (dead.event_id, dead.error) == (event_id, "400 Bad Request")


async def test_the_same_refusal_for_five_contacts_pauses_and_puts_all_five_back(store, clock):
    broken = True
    sink = ScriptedSink(lambda _: fail(status_error(400)) if broken else None)
    async with running(store, clock, sink) as worker:
        ids = await add(store, *(arrival() for _ in range(8)))
        await eventually(lambda: worker.status().state == "paused")
        assert "400" in worker.status().reason
        await reached(store, 8, 0, 0)
        assert len(sink.sent) == 5
        broken = False
        await pass_time(clock, 1200, lambda: set(sink.ids[5:]) == set(ids))
        await reached(store, 0, 8, 0)


async def test_a_pause_spends_no_attempt_and_a_probe_ends_it(store, clock):
    well = False
    sink = ScriptedSink(lambda _: None if well else fail(Pause("renew the token")))
    async with running(store, clock, sink) as worker:
        (event_id,) = await add(store, arrival())
        await eventually(lambda: worker.status().state == "paused")
        assert worker.status().reason == "renew the token"
        for _ in range(5):
            await clock.advance(301)
            await asyncio.sleep(0.02)
        well = True
        await pass_time(clock, 700, lambda: worker.status().state == "running")
        await reached(store, 0, 1, 0)
    assert {delivery.attempt for delivery in sink.sent} == {1}
    assert len((await store.event(event_id)).attempts) >= 2


async def test_a_sinks_own_check_is_the_probe(store, clock):
    sink = CheckedSink(lambda _: fail(Pause("no")) if len(sink.sent) == 1 else None)
    sink.problems = ["the field Zip does not exist"]
    async with running(store, clock, sink) as worker:
        await add(store, arrival())
        await eventually(lambda: worker.status().state == "paused")
        await pass_time(
            clock, 400, lambda: worker.status().reason == "the field Zip does not exist"
        )
        assert len(sink.sent) == 1
        sink.problems = []
        await pass_time(clock, 400, lambda: len(sink.sent) == 2)
        await reached(store, 0, 1, 0)


async def test_what_costs_no_delivery_does_not_keep_a_sink_paused(store, clock):
    sink = CheckedSink(lambda _: fail(Pause("no")) if len(sink.sent) == 1 else None)
    problems = [Mistake("map.Status: no such value"), Notice("an index would be faster")]
    sink.problems = ["the field Zip does not exist", *problems]
    async with running(store, clock, sink) as worker:
        await add(store, arrival())
        await eventually(lambda: worker.status().state == "paused")
        await pass_time(
            clock, 400, lambda: worker.status().reason == "the field Zip does not exist"
        )
        sink.problems = problems
        await pass_time(clock, 400, lambda: len(sink.sent) == 2)
        await reached(store, 0, 1, 0)


async def test_a_sink_that_fails_says_so_from_the_first_failure(store, clock, caplog):
    """Its state is running until the breaker opens, which takes ten of them."""
    answers = iter([Retry("503"), Retry(""), None])

    def answer(_):
        if (outcome := next(answers)) is not None:
            raise outcome

    caplog.set_level(logging.WARNING)
    start = int(clock.now() * 1_000_000)
    async with running(store, clock, ScriptedSink(answer)) as worker:
        assert worker.status().last_error is None
        await add(store, arrival())
        await eventually(lambda: worker.status().last_error is not None)
        status = worker.status()
        assert status.state == "running"
        assert status.last_error == LastError("503", at=start, since=start, attempts=1)
        assert "failed attempts: 1, the last: 503" in caplog.text
        await pass_time(clock, 30, lambda: worker.status().last_error.attempts == 2)
        failed = worker.status().last_error
        assert (failed.since, failed.error) == (start, "it gave no reason")
        assert failed.at > start
        await pass_time(clock, 3600, lambda: worker.status().last_error is None)


async def test_failures_are_logged_once_a_minute_with_their_number(clock, caplog):
    failures = FailureLog(clock, logging.getLogger("relay.sinks.crm"))
    for _ in range(10):
        failures.observe([Retry("to +12125550177"), Delivered(), Retry("503")])
        await clock.advance(20)
    lines = [record.message for record in caplog.records]
    assert (
        lines == ["failed attempts: 2, the last: 503"] + ["failed attempts: 6, the last: 503"] * 3
    )
    assert failures.last.attempts == 1
    failures.observe([Delivered()])
    assert failures.last is None


async def test_a_pause_by_the_operator_ends_only_by_hand(store, clock):
    sink = ScriptedSink()
    async with running(store, clock, sink) as worker:
        start = clock.now()
        await worker.pause("maintenance")
        await add(store, arrival(), arrival(consent="opt_out"))
        for _ in range(3):
            await clock.advance(DAY)
            await asyncio.sleep(0.02)
        assert sink.sent == []
        since = int(start * 1_000_000)
        assert worker.status() == SinkStatus("paused", "maintenance", since, until=None)
        await worker.resume()
        await reached(store, 0, 2, 0)
    assert sink.sent[0].event.data["consent"] == "opt_out"


async def test_a_probe_under_way_does_not_end_a_pause_by_the_operator(store, clock):
    gate = asyncio.Event()
    sink = ScriptedSink(lambda _: gate.wait() if len(sink.sent) > 1 else fail(Pause("no")))
    async with running(store, clock, sink) as worker:
        await add(store, arrival())
        await eventually(lambda: worker.status().state == "paused")
        await pass_time(clock, 400, lambda: sink.sending)
        await worker.pause("maintenance")
        gate.set()
        await reached(store, 0, 1, 0)
        await asyncio.sleep(0.02)
        assert worker.status().reason == "maintenance"


async def test_a_pause_outlives_a_restart(path, clock):
    sink = ScriptedSink()
    store = await SqliteStore.open(path, clock=clock)
    async with running(store, clock, sink) as worker:
        await add(store, arrival())
        await reached(store, 0, 1, 0)
        await worker.pause("maintenance")
    await store.close()
    store = await SqliteStore.open(path, clock=clock)
    async with running(store, clock, sink) as worker:
        assert worker.status().reason == "maintenance"
        await add(store, arrival())
        await asyncio.sleep(0.05)
        assert len(sink.sent) == 1
    await store.close()


async def test_nonsense_from_a_check_is_a_problem_found(store, clock):
    sink = CheckedSink(lambda _: fail(Pause("no")))
    sink.problems = [ValueError("no such field"), 7]
    async with running(store, clock, sink) as worker:
        await add(store, arrival())
        await eventually(lambda: worker.status().state == "paused")
        wanted = "ValueError: no such field; 7"
        await pass_time(clock, 400, lambda: worker.status().reason == wanted)


async def test_no_log_line_holds_a_number_that_a_plugin_tells(store, clock, caplog):
    sink = ScriptedSink(lambda d: fail(ValueError(f"10.0.0.1 refuses {d.event.data['mobile']}")))
    async with running(store, clock, sink, breaker=BreakerSettings(failures=1)) as worker:
        await add(store, arrival(1))
        await eventually(lambda: worker.status().state == "parked")
    assert "10.0.0.1 refuses …0001" in caplog.text
    assert mobile(1) not in caplog.text


async def test_a_pause_is_an_error_unless_somebody_asked_for_it(store, clock, caplog):
    caplog.set_level(logging.INFO, "relay.sinks.crm")
    sink = ScriptedSink(lambda _: fail(Pause("401")))
    async with running(store, clock, sink) as worker:
        await worker.pause("maintenance")
        await worker.resume()
        await add(store, arrival())
        await eventually(lambda: worker.status().state == "paused")
    told = [(each.levelname, each.message) for each in caplog.records if "paused" in each.message]
    assert told == [("INFO", "paused: maintenance"), ("ERROR", "paused: 401")]


async def test_each_attempt_is_a_line_for_who_looks_closely(store, clock, caplog):
    sink = ScriptedSink(lambda d: fail(Retry("busy")) if d.attempt == 1 else None)
    with caplog.at_level(logging.DEBUG, "relay.sinks.crm"):
        async with running(store, clock, sink, retry=NO_WAIT):
            (event_id,) = await add(store, arrival())
            await pass_time(clock, 10, lambda: len(sink.sent) == 2)
            await reached(store, 0, 1, 0)
    assert f"{event_id}: attempt 1: retry: busy" in caplog.messages
    assert f"{event_id}: attempt 2: delivered" in caplog.messages


async def test_a_sink_that_hangs_is_cut_off_and_tried_again(store, clock):
    sink = ScriptedSink(lambda d: asyncio.Event().wait() if d.attempt == 1 else None)
    async with running(store, clock, sink, timeout=0.05, retry=NO_WAIT):
        (event_id,) = await add(store, arrival())
        await pass_time(clock, 10, lambda: len(sink.sent) == 2)
        await reached(store, 0, 1, 0)
    assert "no end within 0.05 s" in (await store.event(event_id)).attempts[0][2].error


async def test_a_sink_that_will_not_be_cancelled_is_left_behind(store, clock):
    async def stubborn():
        while not released.is_set():
            try:
                await released.wait()
            except asyncio.CancelledError:
                continue

    released = asyncio.Event()
    sink = ScriptedSink(lambda d: stubborn() if d.attempt == 1 else None)
    async with running(store, clock, sink, timeout=0.02, retry=NO_WAIT):
        await add(store, arrival())
        try:
            await pass_time(clock, 100, lambda: len(sink.sent) == 2, step=0.1)
            await reached(store, 0, 1, 0)
        finally:
            released.set()


async def test_waiting_for_the_rate_does_not_count_as_a_hang(store, clock):
    limiter = Limiter(Rate(1, 60.0), clock)
    sink = ScriptedSink(lambda _: limiter.acquire())
    async with running(store, clock, sink, timeout=0.05, concurrency=2):
        first, second = await add(store, arrival(), arrival())
        await eventually(lambda: clock.sleeping and sink.sending == 1)
        await asyncio.sleep(0.2)
        await pass_time(clock, 100, lambda: sink.sending == 0)
        await reached(store, 0, 2, 0)
    assert sink.ids == [first, second]


async def test_whatever_a_plugin_raises_is_a_retry(store, clock):
    sink = ScriptedSink(lambda d: fail(KeyError("x")) if d.attempt == 1 else None)
    async with running(store, clock, sink, retry=NO_WAIT):
        await add(store, arrival())
        await pass_time(clock, 10, lambda: len(sink.sent) == 2)
        await reached(store, 0, 1, 0)


async def test_a_map_that_fails_makes_the_delivery_dead(store, clock):
    mapping = Compiler().mapping({"Zip": "{{ data.fields.Zip | int / 0 }}"})
    sink = ScriptedSink(columns=mapping.columns)
    async with running(store, clock, sink, map=mapping) as worker:
        await add(store, arrival(), arrival())
        await reached(store, 0, 0, 2)
        assert worker.status().state == "running"
        await add(store, *(arrival() for _ in range(3)))
        await eventually(lambda: worker.status().state == "paused")
        await reached(store, 5, 0, 0)
    assert sink.sent == []


async def test_map_makes_the_record(store, clock):
    mapping = Compiler().mapping({"Name": "{{ data.fields.Name }}", "None": "{{ data.reply }}"})
    sink = ScriptedSink()
    async with running(store, clock, sink, map=mapping):
        await add(store, arrival())
        await reached(store, 0, 1, 0)
    assert sink.sent[0].record == {"Name": "Bill"}


@pytest.mark.parametrize("queued", [10_000])
async def test_an_opt_out_behind_ten_thousand_others_goes_next(store, clock, queued):
    gate = asyncio.Event()
    sink = ScriptedSink(lambda d: None if d.event.data["consent"] else gate.wait())
    await asyncio.gather(*(store.add(arrival()) for _ in range(queued)))
    async with running(store, clock, sink, concurrency=4):
        await eventually(lambda: sink.sending == 4)
        (stop,) = await add(store, arrival(consent="opt_out"))
        await eventually(lambda: stop in sink.ids)
        assert sink.ids.index(stop) == 4
        assert sink.most == 5
        gate.set()


async def test_an_opt_out_passes_the_rate_and_does_not_wait_for_a_batch(store, clock):
    seen = []
    sink = BatchSink(
        lambda batch: seen.append((current().urgent, len(batch))) or [Delivered() for _ in batch]
    )
    async with running(store, clock, sink, batch=Batch(100, 3600.0)):
        await add(store, arrival(7), arrival(8))
        await asyncio.sleep(0.05)
        assert seen == []
        await add(store, arrival(9, consent="opt_out"))
        await eventually(lambda: (True, 1) in seen)


async def test_opt_outs_that_wait_for_one_another_keep_nobody_busy(store, clock):
    gate = asyncio.Event()
    sink = ScriptedSink(lambda _: gate.wait())
    async with running(store, clock, sink):
        await add(store, *(arrival(number, consent="opt_out") for number in range(3)))
        await sink.next()
        await asyncio.sleep(0.05)
        before = store.statistics()["commits"]
        await asyncio.sleep(0.2)
        assert store.statistics()["commits"] - before < 10
        gate.set()
        await reached(store, 0, 3, 0)


async def test_an_older_opt_in_that_lands_late_is_followed_by_the_opt_out(store, clock):
    def answer(delivery):
        if delivery.event.data["consent"] == "opt_in" and delivery.attempt == 1:
            fail(status_error(503))

    sink = ScriptedSink(answer)
    async with running(store, clock, sink):
        (join,) = await add(store, arrival(7, consent="opt_in"))
        await eventually(lambda: len(sink.sent) == 1)
        await eventually(lambda: states(store))
        (stop,) = await add(store, arrival(7, consent="opt_out"))
        await pass_time(clock, 60, lambda: len(sink.sent) == 4)
        await reached(store, 0, 2, 0)
    assert sink.ids == [join, stop, join, stop]
    assert sink.sent[2].stale


async def test_a_batch_fills_while_it_waits(store, clock):
    sink = BatchSink(lambda batch: [Delivered() for _ in batch])
    async with running(store, clock, sink, batch=Batch(10, 5.0)):
        for _ in range(4):
            await add(store, arrival())
        await eventually(lambda: clock.sleeping)
        await pass_time(clock, 6, lambda: sink.sent)
        await reached(store, 0, 4, 0)
    assert len(sink.sent) == 1


async def test_a_batch_never_holds_a_contact_twice(store, clock):
    sink = BatchSink(lambda batch: [Delivered() for _ in batch])
    await add(store, *(arrival(number % 3) for number in range(30)))
    async with running(store, clock, sink, batch=Batch(10, 0.0), order="none", concurrency=3):
        await reached(store, 0, 30, 0)
    for batch in sink.sent:
        numbers = [delivery.event.data["mobile"] for delivery in batch]
        assert len(set(numbers)) == len(numbers)


async def test_a_batch_that_fills_never_holds_a_contact_twice(store, clock):
    sink = BatchSink(lambda batch: [Delivered() for _ in batch])
    async with running(store, clock, sink, batch=Batch(10, 5.0), order="none"):
        await add(store, arrival(1))
        await eventually(lambda: clock.sleeping)
        await add(store, arrival(1), arrival(2))
        await pass_time(clock, 20, lambda: sum(map(len, sink.sent)) == 3)
        await reached(store, 0, 3, 0)
    for batch in sink.sent:
        numbers = [delivery.event.data["mobile"] for delivery in batch]
        assert len(set(numbers)) == len(numbers)


async def test_each_delivery_of_a_batch_ends_as_its_own_outcome_says(store, clock):
    def answer(batch):
        return [Delivered("ref-1"), Reject("no such field"), Retry("busy")][: len(batch)]

    sink = BatchSink(answer)
    first, second, third = await add(store, arrival(), arrival(), arrival())
    async with running(store, clock, sink, batch=Batch(3, 0.0)):
        await reached(store, 1, 1, 1)
        rows = {row.event_id: row for row in await store.deliveries(list(State))}
    assert rows[first].reference == "ref-1"
    assert (rows[second].state, rows[second].error) == (State.DEAD, "no such field")
    assert rows[third].state == State.WAITING


async def test_a_batch_refused_as_a_whole_is_split_to_find_the_bad_record(store, clock):
    bad = mobile(7)

    def answer(batch):
        if any(delivery.event.data["mobile"] == bad for delivery in batch):
            fail(status_error(400))
        return [Delivered() for _ in batch]

    await add(store, *(arrival() for _ in range(3)), arrival(7), *(arrival() for _ in range(3)))
    sink = BatchSink(answer)
    async with running(store, clock, sink, batch=Batch(10, 0.0)):
        await reached(store, 0, 6, 1)


async def test_a_batch_of_which_every_record_is_refused_pauses_and_loses_none(store, clock):
    await add(store, *(arrival() for _ in range(50)))
    sink = BatchSink(lambda _: fail(status_error(400)))
    async with running(store, clock, sink, batch=Batch(50, 0.0)) as worker:
        await eventually(lambda: worker.status().state == "paused")
        await reached(store, 50, 0, 0)
    assert len(sink.sent) == 6


async def test_a_batch_that_pauses_is_written_once(store, clock, monkeypatch):
    saved, save = [], store.save_sink_state

    async def counted(name, state):
        saved.append(state.paused)
        await save(name, state)

    monkeypatch.setattr(store, "save_sink_state", counted)
    await add(store, *(arrival() for _ in range(50)))
    sink = BatchSink(lambda _: fail(Pause("renew the token")))
    async with running(store, clock, sink, batch=Batch(50, 0.0)):
        await reached(store, 50, 0, 0)
        await eventually(lambda: saved)
        assert saved == ["renew the token"]


@pytest.mark.parametrize("answer", [None, [], [Delivered()] * 3, ["yes", "yes"], 7])
async def test_nonsense_from_a_plugin_is_a_retry(store, clock, answer):
    sink = BatchSink(lambda _: answer)
    await add(store, arrival(), arrival())
    async with running(store, clock, sink, batch=Batch(2, 0.0), breaker=NO_BREAKER):
        await eventually(lambda: sink.sent)
        await eventually(lambda: states(store))
    assert (await counts(store))[1:] == (0, 0)


@pytest.mark.parametrize(
    "outcome",
    [
        Retry(ValueError("no text")),
        Retry("half a \ud800 pair", after="30", status="503", answer=b"busy"),
        Pause(None, after=float("inf")),
        Reject("no", after=float("nan"), status=10**30, answer={"no": "text"}),
        Retry("at once", after=0),
        Delivered({"id": 7}),
    ],
    ids=lambda outcome: type(outcome).__name__,
)
@pytest.mark.parametrize("raised", [True, False])
async def test_nonsense_in_an_outcome_does_not_end_the_worker(store, clock, outcome, raised):
    def answer(batch):
        return fail(outcome) if raised and isinstance(outcome, Exception) else [outcome]

    await add(store, arrival())
    async with running(store, clock, BatchSink(answer)) as worker:
        failure = asyncio.create_task(worker.failure())
        await eventually(lambda: states(store))
        await settled(store)
        assert not failure.done()
        failure.cancel()


async def test_a_stop_puts_back_what_is_being_sent_and_counts_no_attempt(path, clock):
    sink = ScriptedSink(lambda _: asyncio.Event().wait())
    store = await SqliteStore.open(path, clock=clock)
    async with running(store, clock, sink, grace=0.05, concurrency=2):
        await add(store, arrival(), arrival(), arrival())
        await eventually(lambda: sink.sending == 2)
    await store.close()
    store = await SqliteStore.open(path, clock=clock)
    sink = ScriptedSink()
    async with running(store, clock, sink):
        await reached(store, 0, 3, 0)
    assert [delivery.attempt for delivery in sink.sent] == [1, 1, 1]
    await store.close()


async def test_a_stop_lets_what_is_nearly_done_finish(store, clock):
    gate = asyncio.Event()
    sink = ScriptedSink(lambda _: gate.wait())
    async with running(store, clock, sink, grace=5.0):
        await add(store, arrival())
        await eventually(lambda: sink.sending == 1)
        asyncio.get_running_loop().call_later(0.05, gate.set)
    assert await counts(store) == (0, 1, 0)


async def test_a_sink_that_cannot_be_opened_is_paused_and_tried_again(store, clock):
    sink = ScriptedSink()
    closed = True

    async def open_():
        if closed:
            raise OSError("no such folder")

    sink.open = open_
    async with running(store, clock, sink) as worker:
        await add(store, arrival())
        await eventually(lambda: worker.status().state == "paused")
        assert "no such folder" in worker.status().reason
        closed = False
        await pass_time(clock, 400, lambda: sink.sent)
        await reached(store, 0, 1, 0)


async def test_what_was_in_flight_at_a_crash_goes_one_at_a_time(path, clock):
    store = await SqliteStore.open(path, clock=clock)
    await add(store, *(arrival() for _ in range(6)))
    assert len((await store.claim("crm", 4)).claims) == 4
    await store.close(clean=False)
    store = await SqliteStore.open(path, clock=clock)
    alone = []
    sink = ScriptedSink(lambda _: alone.append(sink.sending) or asyncio.sleep(0.01))
    async with running(store, clock, sink, concurrency=4):
        await reached(store, 0, 6, 0)
    assert alone[:4] == [1, 1, 1, 1]
    await store.close()


async def test_a_replay_is_marked_as_such(store, clock):
    sink = ScriptedSink()
    async with running(store, clock, sink):
        await add(store, arrival())
        await reached(store, 0, 1, 0)
        rows = await store.events(EventFilter())
        await store.replay("crm", [rows[0].seq])
        await eventually(lambda: len(sink.sent) == 2)
        await reached(store, 0, 1, 0)
    assert sink.sent[1].replayed


class MeteredSink(ScriptedSink):
    """One whose vendor allows so many calls a day, and says so with every answer."""

    def __init__(self, clock, used, most, answer=None):
        super().__init__(answer)
        self.quota = Quota(clock)
        self.used, self.most = used, most

    async def send(self, delivery):
        await self.quota.acquire()
        self.used += 1
        self.quota.daily(self.used, self.most)
        return await super().send(delivery)


async def test_the_last_of_the_quota_is_for_opt_outs(store, clock):
    sink = MeteredSink(clock, 85, 100)
    async with running(store, clock, sink, concurrency=2) as worker:
        await add(store, *(arrival() for _ in range(20)))
        await eventually(lambda: worker.status().reason is not None)
        await landed(store)
        sent = len(sink.sent)
        assert sent in (5, 6)  # what is being sent by then goes on
        status = worker.status()
        assert status.state == "running"
        assert status.reason == f"quota: {sink.used} of 100 calls of the day used; only opt-outs go"
        assert status.quota == QuotaUse(sink.used, 100, 0.9)
        (opt_out,) = await add(store, arrival(consent="opt_out"))
        await reached(store, 20 - sent, sent + 1, 0)
    assert sink.ids[-1] == opt_out


async def test_a_failed_opt_out_is_tried_again_while_only_opt_outs_go(store, clock):
    sink = MeteredSink(clock, 95, 100, lambda d: fail(Retry("no")) if d.attempt == 1 else None)
    sink.quota.daily(95, 100)
    start = clock.now()
    async with running(store, clock, sink):
        await add(store, arrival(), arrival(consent="opt_out"))
        await sink.next()
        await pass_time(clock, 60, lambda: len(sink.sent) == 2)
        await reached(store, 1, 1, 0)
    assert clock.now() - start < 600


async def test_now_and_then_one_delivery_looks_and_all_go_on_when_there_is_room(store, clock):
    sink = MeteredSink(clock, 95, 100)
    sink.quota.daily(95, 100)
    async with running(store, clock, sink, concurrency=4) as worker:
        await add(store, *(arrival() for _ in range(10)))
        await pass_time(clock, LOOK, lambda: len(sink.sent) == 1)
        await pass_time(clock, LOOK, lambda: len(sink.sent) == 2)
        assert worker.status().quota.used == 97
        sink.used = 0  # the day is over
        await pass_time(clock, LOOK, lambda: len(sink.sent) == 10)
        await reached(store, 0, 10, 0)
        assert worker.status().reason is None


async def test_one_after_the_other_looks_where_no_answer_comes(store, clock):
    sink = ScriptedSink(lambda d: fail(Retry("no answer")) if d.attempt == 1 else None)
    sink.quota = Quota(clock)
    sink.quota.daily(95, 100)
    async with running(store, clock, sink, concurrency=4, breaker=NO_BREAKER):
        await add(store, *(arrival() for _ in range(5)))
        await pass_time(clock, LOOK, lambda: len(sink.sent) == 10)
        await reached(store, 0, 5, 0)
    assert sink.most == 1


async def test_all_go_on_after_the_wait_that_the_vendor_asks_for(store, clock):
    gate = asyncio.Event()
    sink = ScriptedSink(lambda _: gate.wait())
    sink.quota = Quota(clock)
    sink.quota.exhausted(60.0)
    async with running(store, clock, sink, concurrency=4) as worker:
        await add(store, *(arrival() for _ in range(5)))
        await eventually(lambda: clock.sleeping)
        assert worker.status().reason.startswith("quota: all calls of the day used")
        await pass_time(clock, 60, lambda: sink.sending == 4)
        gate.set()
        await reached(store, 0, 5, 0)


async def test_a_pause_is_told_before_the_quota(store, clock):
    sink = MeteredSink(clock, 95, 100)
    sink.quota.daily(95, 100)
    async with running(store, clock, sink) as worker:
        await worker.pause("the CRM moves house")
        status = worker.status()
        assert (status.state, status.reason) == ("paused", "the CRM moves house")
        assert status.quota.used == 95


async def test_nonsense_in_place_of_a_quota_is_none(store, clock):
    sink = ScriptedSink()
    sink.quota = 100
    async with running(store, clock, sink) as worker:
        await add(store, arrival())
        await reached(store, 0, 1, 0)
        assert worker.status() == SinkStatus("running")


async def test_what_was_put_back_goes_as_soon_as_the_wait_is_over(store, clock):
    gate = asyncio.Event()
    sink = ScriptedSink(lambda _: gate.wait())
    sink.quota = Quota(clock)
    start = clock.now()
    async with running(store, clock, sink):
        await add(store, arrival(), arrival())
        await eventually(lambda: clock.sleeping == 2)  # the feeder has claimed both, and waits
        sink.quota.exhausted(60.0)
        gate.set()
        await reached(store, 1, 1, 0)
        await pass_time(clock, 600, lambda: len(sink.sent) == 2, step=1.0)
    assert 60 <= clock.now() - start < 600


async def test_after_a_crash_too_only_opt_outs_go_once_the_quota_is_short(path, clock):
    store = await SqliteStore.open(path, clock=clock)
    *_, opt_out = await add(store, *(arrival() for _ in range(4)), arrival(consent="opt_out"))
    assert len((await store.claim("crm", 5)).claims) == 5
    await store.close(clean=False)
    store = await SqliteStore.open(path, clock=clock)
    sink = MeteredSink(clock, 89, 100)
    async with running(store, clock, sink):
        await reached(store, 3, 2, 0)
        await clock.advance(LOOK_AGAIN / 2)
        assert opt_out in sink.ids
        assert await counts(store) == (3, 2, 0)
    await store.close()


class Body:
    """What a sink sends, as long as anything holds it."""


async def test_a_failed_attempt_leaves_nothing_to_the_garbage_collector(store, clock):
    """It counts objects, not bytes: it would find a hundred large bodies far too late."""
    sent = []

    def answer(_):
        body = Body()
        sent.append(weakref.ref(body))
        cause = OSError("no route")
        raise RuntimeError("not sent") from cause

    gc.collect()
    gc.disable()
    try:
        async with running(store, clock, ScriptedSink(answer)):
            await add(store, arrival(), arrival())
            await eventually(lambda: len(sent) == 2)
            await eventually(lambda: not any(body() for body in sent))
    finally:
        gc.enable()
