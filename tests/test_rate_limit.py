"""Rate limits: a sink's `rate` and the token buckets, with a clock that is moved by hand."""

import asyncio

import pytest
from clock import settle
from hypothesis import given
from hypothesis import strategies as st

from relay.rate_limit import MEMORY, SENDERS, Limiter, SharedTokenBucket, TokenBucket
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


def taken(bucket, times, amount=1.0):
    """How many of so many pass at this moment."""
    return sum(bucket.take(amount) == 0 for _ in range(times))


@pytest.fixture
def bucket(clock):
    return TokenBucket(Rate(10, 5.0), clock.monotonic)


def test_as_many_as_it_holds_pass_at_once(bucket):
    assert taken(bucket, 20) == 10


async def test_it_says_when_there_is_something_again(bucket, clock):
    taken(bucket, 10)
    assert bucket.take() == pytest.approx(0.5)
    await clock.advance(0.49)
    assert bucket.take() == pytest.approx(0.01)
    await clock.advance(0.011)
    assert bucket.take() == 0


async def test_it_fills_up_and_no_further(bucket, clock):
    taken(bucket, 10)
    await clock.advance(2.0)
    assert taken(bucket, 20) == 4
    await clock.advance(1_000_000.0)
    assert taken(bucket, 20) == 10


async def test_what_is_refused_takes_nothing(bucket, clock):
    taken(bucket, 1_000)
    await clock.advance(5.001)
    assert taken(bucket, 20) == 10


async def test_what_is_larger_than_the_bucket_passes_when_that_is_full(bucket, clock):
    assert bucket.take(25) == 0
    assert bucket.take() == pytest.approx(8.0)
    await clock.advance(8.001)
    assert bucket.take() == 0
    assert bucket.take(25) == pytest.approx(5.0, abs=0.01)


def test_what_is_to_be_left_is_left(bucket):
    assert sum(bucket.take(leave=4) == 0 for _ in range(20)) == 6
    assert bucket.take(leave=4) == pytest.approx(0.5)
    assert taken(bucket, 20) == 4


# shared


@pytest.fixture
def shared(clock):
    return SharedTokenBucket(Rate(1000, 60.0), clock.monotonic)


def share(shared, sender, times):
    return sum(shared.take(sender) == 0 for _ in range(times))


async def flood(shared, clock, senders, seconds, each=4):
    """So many senders, each of which sends so many a second."""
    for _ in range(seconds):
        for number in range(senders):
            share(shared, f"flood {number}", each)
        await clock.advance(1.0)


async def test_one_that_takes_much_gets_the_rest_and_no_more(shared, clock):
    assert share(shared, "flood", 2000) == 500
    total = 500
    for _ in range(600):
        await clock.advance(1.0)
        total += share(shared, "flood", 200)
    assert total == pytest.approx(2000, abs=100)  # of 11,000 that all together may take


@pytest.mark.parametrize("senders", [1, 10, 50, 200])
async def test_one_that_takes_little_finds_something_beside_a_flood(shared, clock, senders):
    await flood(shared, clock, senders, 300)
    assert share(shared, "vendor", 5) == 5


async def test_control_without_shares_it_finds_nothing(clock):
    bucket = TokenBucket(Rate(1000, 60.0), clock.monotonic)
    for _ in range(300):
        taken(bucket, 200)
        await clock.advance(1.0)
    taken(bucket, 200)
    assert taken(bucket, 5) == 0


async def test_together_they_take_no_more_than_one_bucket(shared, clock):
    total = 0
    for second in range(120):
        total += sum(share(shared, f"{second}.{number}", 1) for number in range(50))
        await clock.advance(1.0)
    assert total <= 1000 + 2 * 1000


async def test_what_was_taken_is_forgotten_in_time(shared, clock):
    share(shared, "flood", 2000)
    await clock.advance(10 * MEMORY)
    assert share(shared, "flood", 2000) == 500


async def test_no_more_than_so_many_senders_are_remembered(shared, clock):
    """One that comes again and again is not forgotten for those that came once."""
    share(shared, "flood", 2000)
    for number in range(2 * SENDERS):
        assert shared.take(f"{number}") == 0
        await clock.advance(0.1)
        shared.take("flood")
    assert len(shared) == SENDERS
    assert share(shared, "flood", 2000) < 300


@given(
    st.lists(st.tuples(st.floats(0, 3), st.integers(1, 12)), min_size=1, max_size=60),
    st.integers(1, 20),
    st.floats(0.1, 10),
)
def test_in_no_stretch_passes_more_than_the_bucket_and_what_flows_in(steps, count, per):
    now = 0.0
    bucket = TokenBucket(Rate(count, per), lambda: now)
    passed = []
    for pause, amount in steps:
        now += pause
        if bucket.take(amount) == 0:
            passed.append((now, amount))
    for first, (start, _) in enumerate(passed):
        total = 0
        for end, amount in passed[first:]:
            allowed = count + (end - start) * count / per
            # One that is larger than the bucket goes into debt.
            assert total + min(amount, count) <= allowed + 1e-6
            total += amount
