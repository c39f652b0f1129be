"""Delivery policy: what an outcome means for its delivery, and when a retry is due.

It does no I/O and is given the time. The wait before a retry is partly random. Nothing sleeps here:
the store keeps the time at which a delivery is due, also over a restart.
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
"""The sink is paused after rejects of so many contacts in a row for one cause.

The cause is then a mistake in the configuration, and not a record.
"""
TRIAL_RESTS = 1.5
"""A delivery that failed as a trial is due after so many trial periods: others are tried first."""


class SendKind(Enum):
    """Why claims are sent. `SinkGate.may_send` allows some kinds where it allows no others."""

    ORDINARY = auto()
    URGENT = auto()
    """Opt-outs, and the older deliveries of their contacts."""
    AFTER_CRASH = auto()
    """What was in flight when a process crashed. It is sent before any ordinary delivery."""
    TRIAL = auto()
    """One delivery that shows whether a halted sink works again."""
    CONSENT = auto()
    """Only the words of consent, and not the rest of the record, while the sink is paused."""


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
    """Whether only the word of consent was sent, and the rest of the record is still to be sent."""


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
    """How the claim ends.

    A failed trial and a pause cost no attempt. After a failed trial the next one takes another
    delivery, as this one is not due yet.
    """
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
    """Whether the outcome of a word of consent that was sent alone ends its delivery.

    It does not where the rest of the record is still to be sent. The rest may create the record in
    the receiver, and so make it accept a word that it rejected before.
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
    """The state that tenacity would have if it had slept between the attempts."""
    state = RetryCallState(Retrying(), fn=None, args=(), kwargs={})
    state.set_exception((type(outcome), outcome, outcome.__traceback__))
    state.attempt_number = attempt
    assert state.outcome_timestamp is not None
    state.start_time = state.outcome_timestamp - spent
    return state
