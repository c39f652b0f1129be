"""The verdict: what an outcome means for its delivery."""

from dataclasses import replace

from relay.clock import MICROSECONDS
from relay.config.loader import SinkConfig
from relay.delivery.classify import ANSWER_KEPT
from relay.delivery.gate import PROBE_EVERY, Hold
from relay.delivery.retry import RetryPolicy
from relay.delivery.retryafter import LONGEST
from relay.delivery.sender import Result
from relay.outcome import Delivered, NotDelivered, Pause, Reject, Retry
from relay.store import Attempt, Claim, Settlement, State

TRIAL_RESTS = 1.5
"""For how many trial periods a delivery that failed as a trial makes way for others."""


class Judge:
    """Settles results of one sink, by its retry policy and the time that its hold keeps."""

    def __init__(self, config: SinkConfig, hold: Hold) -> None:
        self._cooldown = config.breaker.cooldown
        self._hold = hold
        self._policy = RetryPolicy(
            config.retry.initial, config.retry.max, config.retry.attempts, config.retry.window
        )

    def settlement(self, result: Result, *, trial: bool, consent_only: bool = False) -> Settlement:
        """How the claim ends. A `trial` costs no attempt, and the next one takes another."""
        claim, outcome = result.claim, result.outcome
        put_back = Settlement.put_back(claim.sink, claim.seq, claim.failed_at)
        if consent_only and not _ends(result):
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
        if trial:
            period = PROBE_EVERY if self._hold.paused else self._cooldown
            due = self._hold.after(TRIAL_RESTS * period)
            return replace(put_back, due=due)
        failed = replace(put_back, counted=True)
        if isinstance(outcome, Reject):
            return replace(failed, state=State.DEAD)
        return self._retried(failed, claim, outcome)

    def _retried(self, failed: Settlement, claim: Claim, outcome: Retry) -> Settlement:
        active = self._hold.active()
        failed_at = active if claim.failed_at is None else claim.failed_at
        wait = self._policy.wait(outcome, claim.attempt, max(0.0, active - failed_at))
        if wait is None:
            return replace(failed, state=State.DEAD, failed_at=failed_at)
        if outcome.after is not None:
            wait = min(max(outcome.after, 0.0), LONGEST)
        due = self._hold.after(wait)
        return replace(failed, failed_at=failed_at, due=due)


def _ends(result: Result) -> bool:
    """Whether what became of a word of consent, sent alone, is the end of its delivery.

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
