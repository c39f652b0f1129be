"""Delivery policy: what an outcome means for its delivery. Pure: no clock, no I/O.

Nothing sleeps here. A wait is written beside the delivery, and outlives the process.
"""

from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import NamedTuple

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    stop_after_attempt,
    stop_after_delay,
    wait_random_exponential,
)

from relay.clock import MICROSECONDS
from relay.delivery.classify import ANSWER_KEPT, LONGEST_WAIT
from relay.outcome import Delivered, NotDelivered, Outcome, Pause, Reject, Retry
from relay.store import Attempt, Claim, Settlement, State

REJECTS_IN_A_ROW = 5
"""So many contacts rejected in a row for one cause point to a mistake in the configuration."""
TRIAL_RESTS = 1.5
"""For how many trial periods a delivery that failed as a trial makes way for others."""


class SendKind(Enum):
    """Why claims are sent: the gate lets more pass of some kinds than of others."""

    ORDINARY = auto()
    URGENT = auto()
    """Opt-outs, and what must land before them."""
    SUSPECT = auto()
    """What was in flight when a process died, with nothing beside it."""
    TRIAL = auto()
    """One delivery that shows whether a halted sink works again."""
    CONSENT = auto()
    """The words of consent alone, while the sink is paused."""


class MapFailed(Reject):
    """The sink's `map` raised for this event."""


@dataclass(frozen=True, slots=True)
class Result:
    """The outcome of one claim. `started` in seconds since the epoch, `duration` in seconds."""

    claim: Claim
    outcome: Outcome
    started: float
    duration: float
    rest: bool = False
    """Whether only the word of consent was sent, and the rest is still to be."""


class Moment(NamedTuple):
    """When a result is settled."""

    now: float
    """Seconds since the epoch."""
    active: float
    """Seconds that the sink was neither paused nor parked, over all restarts."""
    trial_period: float
    """Seconds between two trials of the sink."""

    def after(self, seconds: float) -> int:
        """The time so many seconds later, in microseconds since the epoch."""
        return int((self.now + seconds) * MICROSECONDS)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential with full jitter; gives up when both the attempts and the window are used up.

    `initial`, `max` and `window` in seconds. The strategies are tenacity's, evaluated for an
    attempt that is stored.
    """

    initial: float = 5.0
    max: float = 6 * 3600.0
    attempts: int = 14
    window: float = 4 * 86400.0

    def wait(self, outcome: Retry, attempt: int, spent: float) -> float | None:
        """Seconds until the next attempt, or None to give up.

        `attempt` counts from 1; `spent` is the seconds since the first failed attempt, without
        those in which the sink could not be tried.
        """
        state = _call_state(outcome, attempt, spent)
        retry = retry_if_exception_type(Retry)
        stop = stop_after_attempt(self.attempts) & stop_after_delay(self.window)
        if not retry(state) or stop(state):
            return None
        return wait_random_exponential(multiplier=self.initial, max=self.max)(state)


def settlement(result: Result, retry: RetryPolicy, moment: Moment, kind: SendKind) -> Settlement:
    """How the claim ends. A trial costs no attempt, and the next one takes another delivery."""
    claim, outcome = result.claim, result.outcome
    put_back = Settlement.put_back(claim.sink, claim.seq, claim.failed_at)
    if kind is SendKind.CONSENT and not _is_whole(result):
        return replace(put_back, consent=isinstance(outcome, Delivered))
    if isinstance(outcome, Delivered):
        return Settlement(
            claim.sink,
            claim.seq,
            State.DELIVERED,
            reference=outcome.reference,
            error=outcome.note,
        )
    put_back = replace(
        put_back, error=outcome.reason, attempt=_attempt(result), consent=outcome.consent
    )
    if isinstance(outcome, Pause):
        return put_back
    if kind is SendKind.TRIAL:
        return replace(put_back, due=moment.after(TRIAL_RESTS * moment.trial_period))
    failed = replace(put_back, counted=True)
    if isinstance(outcome, Reject):
        return replace(failed, state=State.DEAD)
    return _retried(failed, claim, outcome, retry, moment)


def _retried(
    failed: Settlement, claim: Claim, outcome: Retry, retry: RetryPolicy, moment: Moment
) -> Settlement:
    failed_at = moment.active if claim.failed_at is None else claim.failed_at
    wait = retry.wait(outcome, claim.attempt, max(0.0, moment.active - failed_at))
    if wait is None:
        return replace(failed, state=State.DEAD, failed_at=failed_at)
    if outcome.after is not None:
        wait = min(max(outcome.after, 0.0), LONGEST_WAIT)
    return replace(failed, failed_at=failed_at, due=moment.after(wait))


def _is_whole(result: Result) -> bool:
    """Whether the outcome of a word of consent, sent alone, is that of its delivery.

    A word that is refused may be taken with the rest, which makes the record that it is written to.
    """
    return isinstance(result.outcome, Delivered | Reject) and not result.rest


def _attempt(result: Result) -> Attempt:
    """The failed attempt as it is recorded."""
    outcome = result.outcome
    assert isinstance(outcome, NotDelivered)
    return Attempt(
        int(result.started * MICROSECONDS),
        result.duration,
        outcome.reason,
        outcome.status,
        None if outcome.answer is None else outcome.answer[:ANSWER_KEPT],
    )


def _call_state(outcome: Retry, attempt: int, spent: float) -> RetryCallState:
    """What tenacity would hold in memory, had it slept since the first attempt."""
    state = RetryCallState(Retrying(), fn=None, args=(), kwargs={})
    state.set_exception((type(outcome), outcome, outcome.__traceback__))
    state.attempt_number = attempt
    assert state.outcome_timestamp is not None
    state.start_time = state.outcome_timestamp - spent
    return state
