"""The token bucket, with a clock that is moved by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.units import Rate
from relay.web.bucket import Bucket


def taken(bucket, times, amount=1.0):
    """How many of so many pass at this moment."""
    return sum(bucket.take(amount) == 0 for _ in range(times))


@pytest.fixture
def bucket(clock):
    return Bucket(Rate(10, 5.0), clock.monotonic)


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


@given(
    st.lists(st.tuples(st.floats(0, 3), st.integers(1, 12)), min_size=1, max_size=60),
    st.integers(1, 20),
    st.floats(0.1, 10),
)
def test_in_no_stretch_passes_more_than_the_bucket_and_what_flows_in(steps, count, per):
    now = 0.0
    bucket = Bucket(Rate(count, per), lambda: now)
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
