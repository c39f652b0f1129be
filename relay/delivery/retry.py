"""The retry policy: tenacity's strategies, evaluated for an attempt that is stored.

Nothing sleeps here. A wait is written beside the delivery, and outlives the process.
"""

from dataclasses import dataclass

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    stop_after_attempt,
    stop_after_delay,
    wait_random_exponential,
)

from relay.outcome import Retry


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential with full jitter; gives up when both the attempts and the window are used up.

    `initial`, `max` and `window` in seconds.
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


def _call_state(outcome: Retry, attempt: int, spent: float) -> RetryCallState:
    """What tenacity would hold in memory, had it slept since the first attempt."""
    state = RetryCallState(Retrying(), fn=None, args=(), kwargs={})
    state.set_exception((type(outcome), outcome, outcome.__traceback__))
    state.attempt_number = attempt
    assert state.outcome_timestamp is not None
    state.start_time = state.outcome_timestamp - spent
    return state
