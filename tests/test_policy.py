"""The policy: retries without sleeping, and how each outcome settles its delivery."""

import random

import pytest

from relay.delivery.policy import Moment, Result, RetryPolicy, SendKind, settlement
from relay.event import Event
from relay.outcome import Delivered, Pause, Reject, Retry
from relay.store import Claim, State

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


EVENT = Event("1", "/callbacks/a", "com.sumotext.message", None, "", {})
CLAIM = Claim("crm", 1, EVENT, 1, False, False, False, False, None, 1)
MOMENT = Moment(now=1_800_000_000.0, active=100.0, trial_period=300.0)


def settled(outcome, kind=SendKind.ORDINARY, *, rest=False):
    result = Result(CLAIM, outcome, MOMENT.now - 1, 1.0, rest)
    return settlement(result, RetryPolicy(attempts=1, window=0), MOMENT, kind)


@pytest.mark.parametrize(
    ("outcome", "state", "counted"),
    [
        (Delivered("r-1"), State.DELIVERED, True),
        (Reject("no"), State.DEAD, True),
        (Retry("busy"), State.DEAD, True),  # its attempts are used up
        (Pause("401"), State.WAITING, False),
    ],
)
def test_how_an_outcome_ends_its_claim(outcome, state, counted):
    found = settled(outcome)
    assert (found.state, found.counted, found.is_put_back) == (state, counted, not counted)


@pytest.mark.parametrize("outcome", [Reject("no"), Retry("busy")])
def test_a_failed_trial_costs_no_attempt_and_makes_way_for_others(outcome):
    found = settled(outcome, SendKind.TRIAL)
    assert (found.state, found.counted) == (State.WAITING, False)
    assert found.due == int((MOMENT.now + 450.0) * 1_000_000)


@pytest.mark.parametrize(
    ("outcome", "rest", "state", "consent"),
    [
        (Delivered(), False, State.DELIVERED, False),
        (Delivered(), True, State.WAITING, True),
        (Reject("no"), True, State.WAITING, False),
        (Retry("busy"), False, State.WAITING, False),
    ],
)
def test_a_word_of_consent_sent_alone_leaves_the_rest_of_its_delivery(
    outcome, rest, state, consent
):
    found = settled(outcome, SendKind.CONSENT, rest=rest)
    assert (found.state, found.consent) == (state, consent)
