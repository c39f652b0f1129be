"""What the vendor lets us use, with a clock that is moved by hand."""

import asyncio

import pytest
from clock import settle

from relay import limiter
from relay.activeclock import ActiveClock
from relay.quota import ANSWER_WITHIN, DAY, LOOK_AGAIN, Quota
from relay.units import Rate


@pytest.fixture
def quota(clock):
    return Quota(clock)


@pytest.fixture
def opt_out():
    """From here on, an opt-out is delivered."""
    token = limiter.urgent.set(True)
    yield
    limiter.urgent.reset(token)


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


async def test_one_call_then_looks_while_the_others_wait_for_its_answer(quota, clock):
    quota.daily(90, 100)
    await clock.advance(LOOK_AGAIN)
    assert quota.bulk_wait() == 0.0
    await quota.acquire()
    assert quota.bulk_wait() == ANSWER_WITHIN
    quota.daily(91, 100)
    assert quota.bulk_wait() == LOOK_AGAIN


async def test_another_one_looks_where_no_answer_came(quota, clock):
    quota.daily(90, 100)
    await clock.advance(LOOK_AGAIN)
    await quota.acquire()
    await clock.advance(ANSWER_WITHIN)
    assert quota.bulk_wait() == 0.0


async def test_an_opt_out_is_not_the_one_that_looks(quota, clock, opt_out):
    quota.daily(90, 100)
    await clock.advance(LOOK_AGAIN)
    await quota.acquire()
    assert quota.bulk_wait() == 0.0


async def test_what_the_vendor_says_of_the_wait_is_kept_even_when_it_is_long(quota, clock):
    quota.exhausted(3600.0)
    quota.daily(100, 100)
    assert quota.bulk_wait() == 3600.0
    assert quota.status()["until"] == int((clock.now() + 3600.0) * 1_000_000)


def test_exhausted_before_any_count_was_heard(quota):
    quota.exhausted(60.0)
    assert quota.status() | {"until": 0} == {"used": None, "most": None, "share": 0.9, "until": 0}


async def test_the_wall_clock_has_no_say(quota, clock):
    quota.daily(90, 100)
    clock.jump(-DAY)
    await clock.advance(LOOK_AGAIN)
    assert quota.bulk_wait() == 0.0


async def test_a_burst_that_is_nearly_used_is_waited_for(quota, clock, start):
    quota.burst(10, 100, 10.0)
    passed = start(quota)
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
    watch = ActiveClock(clock)
    watch.go()
    limiter.stopwatch.set(watch)
    quota.burst(0, 100, 10.0)
    passed = start(quota)
    await clock.advance(12.0)
    assert passed == [10.0]
    assert watch.now() == 2.0


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
