"""A sink's `rate`, with a clock that is moved by hand."""

import asyncio

import pytest
from clock import settle

from relay.rate_limit import Limiter
from relay.send_context import SendContext, entered
from relay.units import Rate


@pytest.fixture
def passed():
    """When each request passed."""
    return []


@pytest.fixture
def request_many(clock, passed):
    """Start requests that pass the limiter; each notes its name and time."""
    running = []

    async def one(limiter, name):
        await limiter.acquire()
        passed.append((name, clock.monotonic()))

    def many(limiter, *names):
        tasks = [asyncio.create_task(one(limiter, name)) for name in names]
        running.extend(tasks)
        return tasks

    yield many
    for task in running:
        task.cancel()


async def test_the_first_pass_at_once_and_the_rest_when_the_oldest_is_old_enough(
    clock, passed, request_many
):
    request_many(Limiter(Rate(2, 10.0), clock), *range(5))
    await settle()
    assert passed == [(0, 0.0), (1, 0.0)]
    await clock.advance(9.9)
    assert len(passed) == 2
    await clock.advance(20)
    assert passed[2:] == [(2, 10.0), (3, 10.0), (4, 20.0)]


async def test_no_stretch_of_time_has_more_than_the_rate_allows(clock, passed, request_many):
    """Not even one that straddles two windows: bursts come at odd times here."""
    limiter = Limiter(Rate(3, 10.0), clock)
    for step in range(40):
        request_many(limiter, *range(step % 4))
        await clock.advance(0.7 * (step % 5))
    await clock.advance(400)
    times = [at for _, at in passed]
    assert len(times) == 60
    assert times == sorted(times)
    assert all(
        later - earlier >= 10.0 - 1e-9 for earlier, later in zip(times, times[3:], strict=False)
    )


async def test_urgent_requests_do_not_wait_but_count(clock, passed, request_many):
    limiter = Limiter(Rate(2, 10.0), clock)
    request_many(limiter, "a", "b", "c")
    await settle()
    await clock.advance(5)
    with entered(SendContext(urgent=True)):
        request_many(limiter, "opt-out", "opt-out")
    await settle()
    assert passed[2:] == [("opt-out", 5.0), ("opt-out", 5.0)]
    await clock.advance(9.9)
    assert len(passed) == 4
    await clock.advance(0.1)
    assert passed[4:] == [("c", 15.0)]


async def test_one_that_gives_up_takes_no_place(clock, passed, request_many):
    limiter = Limiter(Rate(1, 10.0), clock)
    _, second, _ = request_many(limiter, 1, 2, 3)
    await settle()
    second.cancel()
    await clock.advance(10)
    assert passed == [(1, 0.0), (3, 10.0)]


async def test_the_wall_clock_has_no_say(clock, passed, request_many):
    limiter = Limiter(Rate(1, 10.0), clock)
    request_many(limiter, 1, 2)
    await settle()
    clock.jump(-86_400)
    await clock.advance(10)
    assert passed == [(1, 0.0), (2, 10.0)]
