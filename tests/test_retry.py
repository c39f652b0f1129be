"""The retry policy, evaluated without sleeping."""

import random

import pytest

from relay.delivery.policy import RetryPolicy
from relay.outcome import Retry

DAY = 86400.0
FAILED = Retry("503")


@pytest.fixture(autouse=True)
def seed():
    random.seed(7)


@pytest.mark.parametrize("attempt", range(1, 20))
def test_a_wait_is_spread_over_the_whole_of_its_step(attempt):
    """Full jitter: between nothing and 5 s doubled for each attempt, 6 h at the most."""
    top = min(5.0 * 2 ** (attempt - 1), 6 * 3600.0)
    waits = [RetryPolicy().wait(FAILED, attempt, 0.0) for _ in range(400)]
    assert 0 <= min(waits) < top * 0.1
    assert top * 0.9 < max(waits) <= top


@pytest.mark.parametrize(
    ("attempt", "spent", "dead"),
    [
        (1, 0, False),
        (14, 4 * DAY - 1, False),
        (13, 4 * DAY + 1, False),
        (14, 4 * DAY, True),
        (20, 3 * DAY, False),
        (20, 5 * DAY, True),
    ],
)
def test_a_delivery_is_dead_when_attempts_and_window_are_both_used_up(attempt, spent, dead):
    assert (RetryPolicy().wait(FAILED, attempt, spent) is None) is dead


def test_the_settings_are_followed():
    policy = RetryPolicy(initial=1, max=2, attempts=2, window=0)
    assert policy.wait(FAILED, 1, 0) <= 1
    assert policy.wait(FAILED, 2, 0) is None
