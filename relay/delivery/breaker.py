"""The health of a sink, by its results: circuit breaker, streaks of rejects, log of failures."""

import logging
import math
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

from relay.clock import MICROSECONDS, Clock
from relay.config.model import BreakerSettings
from relay.delivery.policy import REJECTS_IN_A_ROW, MapFailed, Result
from relay.outcome import Delivered, Outcome, Pause, Reject, Retry
from relay.redact import mask_all

THROTTLED = 429
PERIOD = 60.0
"""Seconds between two lines about failed attempts in the log."""


@dataclass(slots=True)
class CircuitBreaker:
    """Opens after failures of `failures` different contacts without a success between them."""

    failures: int
    _failed: set[int] = field(default_factory=set)

    def failure(self, contact: int) -> bool:
        """Count a failure; True if that trips the breaker."""
        self._failed.add(contact)
        return len(self._failed) >= self.failures

    def success(self) -> None:
        """Forget the failures."""
        self._failed.clear()


@dataclass(slots=True)
class RejectStreak:
    """Finds that `length` contacts in a row are rejected for the same cause.

    The configuration is then wrong, and not a record.
    """

    length: int
    _cause: Hashable = None
    _rejected: dict[int, int] = field(default_factory=dict)

    def reject(self, cause: Hashable, contact: int, seq: int) -> list[int]:
        """Count a reject. Return the seqs of the dead deliveries to revive.

        There are none before the streak has its length; then all of the streak; then each new one.
        """
        if cause != self._cause:
            self.end()
            self._cause = cause
        self._rejected[contact] = seq
        if len(self._rejected) < self.length:
            return []
        return list(self._rejected.values()) if len(self._rejected) == self.length else [seq]

    def end(self) -> None:
        """Forget the rejects."""
        self._cause = None
        self._rejected.clear()


class HaltKind(Enum):
    """How the gate halts the sink."""

    PAUSE = auto()
    PARK = auto()
    TRIP_BREAKER = auto()


@dataclass(frozen=True, slots=True)
class Halt:
    """A reason to halt the sink. Where `seconds` is None, the gate decides for how long."""

    kind: HaltKind
    reason: str
    seconds: float | None
    revive: Sequence[int] = ()
    """The seqs of dead deliveries whose rejects the configuration caused."""


class HealthTracker:
    """Finds in the results of a sink that it must be halted: it is down or wrongly set up."""

    def __init__(self, config: BreakerSettings) -> None:
        self._config = config
        self._breaker = CircuitBreaker(config.failures)
        self._streak = RejectStreak(REJECTS_IN_A_ROW)

    def reset(self) -> None:
        """Forget all failures and rejects."""
        self._breaker.success()
        self._streak.end()

    def observe(self, results: Sequence[Result], *, trial: bool) -> Iterator[Halt]:
        """Count the results of one batch, and yield the reasons to halt the sink.

        The breaker counts all failures of one batch as one: a single lost connection fails them
        all. The failures and rejects of a `trial` are not counted.
        """
        counting = next(filter(_counts_as_failure, results), None)
        for each in results:
            halt = self._observe(each, trial=trial, counts=each is counting)
            if halt is not None:
                yield halt

    def _observe(self, result: Result, *, trial: bool, counts: bool) -> Halt | None:
        outcome = result.outcome
        match outcome:
            case Delivered():
                self.reset()
            case Pause():
                return Halt(HaltKind.PAUSE, outcome.reason, outcome.after)
            case Retry(after=(float() | int()) as after):
                return Halt(HaltKind.PARK, f"asked to wait: {outcome.reason}", after)
            case Retry() if counts and not trial:
                return self._failure(result.claim.contact, outcome)
            case Reject() if not trial:
                return self._reject(result.claim.contact, result.claim.seq, outcome)
            case _:
                pass
        return None

    def _failure(self, contact: int, outcome: Retry) -> Halt | None:
        if not self._breaker.failure(contact):
            return None
        reason = f"{self._config.failures} contacts failed in a row, the last with: "
        return Halt(HaltKind.TRIP_BREAKER, reason + outcome.reason, None)

    def _reject(self, contact: int, seq: int, outcome: Reject) -> Halt | None:
        cause = MapFailed if isinstance(outcome, MapFailed) else outcome.status
        if cause is None or not (seqs := self._streak.reject(cause, contact, seq)):
            return None
        reason = f"{REJECTS_IN_A_ROW} contacts in a row were refused: {outcome.reason}"
        return Halt(HaltKind.PAUSE, reason, None, seqs)


def _counts_as_failure(result: Result) -> bool:
    outcome = result.outcome
    return isinstance(outcome, Retry) and outcome.after is None and outcome.status != THROTTLED


@dataclass(frozen=True, slots=True)
class LastError:
    """The failed attempts of a sink since its last success.

    `at` is the time of the last one, `since` of the first, in microseconds since the epoch.
    """

    error: str
    """The reason of the last one."""
    at: int
    since: int
    attempts: int


class FailureLog:
    """Logs the first failed attempt of a sink, and then once a minute their number.

    Without it no failure of a sink would show before its circuit breaker opens.
    """

    def __init__(self, clock: Clock, log: logging.Logger) -> None:
        self._clock = clock
        self._log = log
        self._not_logged = 0
        self._logged_at = -math.inf
        self._error = ""
        self.last: LastError | None = None
        """None where the last attempt succeeded."""

    def observe(self, outcomes: Iterable[Outcome]) -> None:
        """Count the failures of a batch. A delivered one resets `last`."""
        for outcome in outcomes:
            if isinstance(outcome, Delivered):
                self.last = None
            else:
                self._count(outcome.reason)
        if self._not_logged and self._clock.monotonic() - self._logged_at >= PERIOD:
            self._write()

    def _count(self, reason: str) -> None:
        at = int(self._clock.now() * MICROSECONDS)
        error = mask_all(reason) or "it gave no reason"
        last = self.last or LastError(error, at, at, 0)
        self.last = LastError(error, at, last.since, last.attempts + 1)
        self._not_logged += 1
        self._error = error

    def _write(self) -> None:
        self._log.warning("failed attempts: %d, the last: %s", self._not_logged, self._error)
        self._not_logged = 0
        self._logged_at = self._clock.monotonic()
