"""What the vendor lets us use, with a clock that is moved by hand."""

import asyncio
import logging

import pytest
from arrivals import arrival
from clock import settle
from workers import ScriptedSink, fail, reached, running

from relay import send_context
from relay.clock import Stopwatch
from relay.delivery.gate import SinkStatus
from relay.delivery.safe_quota import SafeQuota
from relay.quota import DAY, LOOK_AGAIN, Quota
from relay.send_context import SendContext
from relay.store.sqlite import SqliteStore
from relay.units import Rate


@pytest.fixture
def quota(clock):
    return Quota(clock)


@pytest.fixture
def opt_out():
    """From here on, an opt-out is delivered."""
    with send_context.entered(SendContext(urgent=True)):
        yield


@pytest.fixture
def start(clock):
    """Start a call; the list has the time at which it was let through."""
    running = []

    def start(quota):
        passed = []

        async def call():
            await quota.acquire()
            passed.append(clock.monotonic())

        running.append(asyncio.create_task(call()))
        return passed

    yield start
    for task in running:
        task.cancel()


def test_nothing_is_known_and_nothing_waits_until_an_answer_has_said_something(quota):
    assert quota.bulk_wait() == 0.0
    assert quota.status() == {}


def test_below_its_share_of_the_day_all_go(quota):
    quota.daily(89, 100)
    assert quota.bulk_wait() == 0.0
    assert quota.status() == {"used": 89, "most": 100, "share": 0.9, "until": None}


def test_from_its_share_on_only_opt_outs_go_for_a_quarter_of_an_hour(quota, clock):
    quota.daily(90, 100)
    assert quota.bulk_wait() == LOOK_AGAIN
    until = int((clock.now() + LOOK_AGAIN) * 1_000_000)
    assert quota.status() == {"used": 90, "most": 100, "share": 0.9, "until": until}


def test_an_answer_that_tells_of_room_ends_it_at_once(quota):
    quota.daily(95, 100)
    quota.daily(50, 100)
    assert quota.bulk_wait() == 0.0


async def test_after_it_the_quota_stays_tight_until_an_answer_tells_of_room(quota, clock):
    quota.daily(90, 100)
    await clock.advance(LOOK_AGAIN)
    assert (quota.tight, quota.bulk_wait()) == (True, 0.0)
    quota.daily(91, 100)
    assert (quota.tight, quota.bulk_wait()) == (True, LOOK_AGAIN)
    quota.daily(89, 100)
    assert (quota.tight, quota.bulk_wait()) == (False, 0.0)


@pytest.mark.parametrize("used", [50, 100])
async def test_a_wait_that_the_vendor_asks_for_is_kept_whatever_the_count_is(quota, clock, used):
    quota.exhausted(3600.0)
    quota.daily(used, 100)
    assert quota.bulk_wait() == 3600.0
    assert quota.status()["until"] == int((clock.now() + 3600.0) * 1_000_000)


async def test_after_it_all_go_again_where_no_count_was_heard(quota, clock):
    quota.exhausted(60.0)
    assert quota.status() | {"until": 0} == {"used": None, "most": None, "share": 0.9, "until": 0}
    await clock.advance(60.0)
    assert (quota.tight, quota.bulk_wait()) == (False, 0.0)
    assert quota.status() == {}


async def test_the_wall_clock_has_no_say(quota, clock):
    quota.daily(90, 100)
    clock.jump(-DAY)
    await clock.advance(LOOK_AGAIN)
    assert quota.bulk_wait() == 0.0


PARTS = ("tight", "bulk_wait", "status")
ENDLESS = 10**400
"""More than a float can hold."""


@pytest.mark.parametrize(
    ("used", "most", "tight"),
    [(1, ENDLESS, False), (ENDLESS, 100, True), (-ENDLESS, 100, False), (0, -ENDLESS, True)],
    ids=["most", "used", "none", "less"],
)
def test_numbers_that_no_vendor_means_do_no_harm(quota, used, most, tight):
    """Whoever asks for it reckons with them at any time, and is not to end by it."""
    quota.daily(used, most)
    assert quota.tight is tight
    assert quota.bulk_wait() in (0.0, LOOK_AGAIN)
    assert all(abs(quota.status()[name]) < 2**63 for name in ("used", "most"))
    quota.burst(used, most, 10.0)


async def test_such_a_number_in_an_answer_does_not_end_the_worker(tmp_path, clock):
    """The end of one worker is that of the relay."""

    def answer(_):
        sink.quota.daily(1, ENDLESS)

    sink = ScriptedSink(answer)
    sink.quota = Quota(clock)
    store = await SqliteStore.open(tmp_path / "relay.db", clock=clock)
    try:
        async with running(store, clock, sink):
            for _ in range(2):
                await store.add(arrival())
            await reached(store, 0, 2, 0)
    finally:
        await store.close()


class Failing(Quota):
    """One of a plugin's own, of which one part does as it is told."""

    def __init__(self, part, said):
        super().__init__()
        self.part, self.said = part, said

    def read(self, part):
        if part != self.part:
            return getattr(super(), part)
        if isinstance(self.said, BaseException):
            raise self.said
        return lambda: self.said

    bulk_wait = property(lambda self: self.read("bulk_wait"))
    status = property(lambda self: self.read("status"))
    tight = property(lambda self: self.read("tight"))


class FailingSink(ScriptedSink):
    quota = property(lambda _: fail(LookupError("2125550177")))


def with_quota(part, said):
    sink = ScriptedSink()
    sink.quota = Failing(part, said)
    return sink


@pytest.mark.parametrize(
    "sink",
    [
        FailingSink(),
        *(with_quota(part, LookupError("2125550177")) for part in PARTS),
        with_quota("bulk_wait", SystemExit()),
        with_quota("bulk_wait", float("nan")),
        with_quota("bulk_wait", "soon"),
        with_quota("bulk_wait", None),
        with_quota("status", "well"),
        with_quota("status", {"used": 1}),
        with_quota("status", {"used": 1, "most": "ten", "share": 0.9, "until": None}),
        with_quota("status", {"used": 1, "most": 10, "share": 0.9, "until": "noon"}),
    ],
)
async def test_a_quota_that_cannot_be_read_limits_nothing_and_is_told_of_once(
    tmp_path, clock, sink, caplog
):
    store = await SqliteStore.open(tmp_path / "relay.db", clock=clock)
    try:
        async with running(store, clock, sink) as worker:
            failure = asyncio.create_task(worker.failure())
            for _ in range(3):
                await store.add(arrival())
            await reached(store, 0, 3, 0)
            assert worker.status() == SinkStatus("running")
            assert not failure.done()
            failure.cancel()
    finally:
        await store.close()
    (told,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert (told.name, "quota" in told.message) == ("relay.sinks.crm", True)


async def test_a_wait_below_nothing_is_none(tmp_path, clock, caplog):
    sink = with_quota("bulk_wait", -1.0)
    assert SafeQuota("crm", sink, logging.getLogger()).bulk_wait() == 0.0
    assert not caplog.records


async def test_nobody_has_a_call_wait_for_longer_than_a_day(quota, clock, start):
    quota.burst(0, 100, 1e9)
    quota.exhausted(1e9)
    passed = start(quota)
    await settle()
    assert quota.bulk_wait() == DAY
    await clock.advance(DAY)
    assert passed == [DAY]


async def test_a_burst_that_is_nearly_used_is_waited_for(quota, clock, start):
    quota.burst(10, 100, 10.0)
    passed = start(quota)
    await settle()
    await clock.advance(9.9)
    assert passed == []
    await clock.advance(0.1)
    assert passed == [10.0]


async def test_a_burst_with_room_is_not(quota):
    quota.burst(11, 100, 10.0)
    await quota.acquire()


async def test_opt_outs_do_not_wait_for_a_burst(quota, opt_out):
    quota.burst(0, 100, 10.0)
    await quota.acquire()


async def test_the_wait_is_no_fault_of_the_sink(quota, clock, start):
    watch = Stopwatch(clock)
    watch.start()
    await clock.advance(2.0)
    quota.burst(0, 100, 10.0)
    with send_context.entered(SendContext(timeout=30.0, stopwatch=watch)):
        passed = start(quota)
    await settle()
    await clock.advance(10.0)
    assert passed == [12.0]
    assert watch.elapsed() == 2.0


async def test_where_answers_say_nothing_a_rate_takes_their_place(clock, start):
    quota = Quota(clock, burst=Rate(2, 10.0))
    passed = [start(quota) for _ in range(3)]
    await settle()
    assert passed == [[0.0], [0.0], []]
    await clock.advance(10.0)
    assert passed[2] == [10.0]


async def test_where_answers_say_nothing_the_calls_of_a_day_are_counted(clock):
    quota = Quota(clock, daily=10)
    for _ in range(8):
        await quota.acquire()
    assert quota.bulk_wait() == 0.0
    await clock.advance(100.0)
    await quota.acquire()
    assert quota.bulk_wait() == DAY - 100.0
    assert quota.status() | {"until": 0} == {"used": 9, "most": 10, "share": 0.9, "until": 0}


async def test_counting_begins_anew_with_the_next_day(clock):
    quota = Quota(clock, daily=10)
    for _ in range(10):
        await quota.acquire()
    await clock.advance(DAY)
    await quota.acquire()
    assert quota.bulk_wait() == 0.0
    assert quota.status()["used"] == 1


async def test_an_answer_knows_better_than_the_count(clock):
    quota = Quota(clock, daily=10)
    await quota.acquire()
    quota.daily(500, 1000)
    await quota.acquire()
    assert quota.status()["used"] == 500
