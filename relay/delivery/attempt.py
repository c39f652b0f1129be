"""The trips: a batch goes to the sink, how each delivery ended is written, and learned from."""

import asyncio
import logging
from collections.abc import Sequence
from datetime import datetime

from relay.clock import Clock
from relay.counters import SinkCounters
from relay.delivery.failures import Failures
from relay.delivery.gate import Hold
from relay.delivery.health_tracker import Lessons
from relay.delivery.policy import Judge
from relay.delivery.queue import Depot
from relay.delivery.sender import Dispatch, Result
from relay.outcome import word_of
from relay.store import Claim


class Trips:
    """Several may be under way at once. What was claimed is settled here, or put back."""

    def __init__(
        self,
        dispatch: Dispatch,
        judge: Judge,
        lessons: Lessons,
        hold: Hold,
        depot: Depot,
        clock: Clock,
        log: logging.Logger,
    ) -> None:
        self._dispatch = dispatch
        self._judge = judge
        self._lessons = lessons
        self._hold = hold
        self._depot = depot
        self._clock = clock
        self._log = log
        self._under_way = 0
        self._home = asyncio.Event()
        self._home.set()
        self.tally = SinkCounters()
        self.failures = Failures(clock, log)

    async def make(
        self, claims: Sequence[Claim], *, trial: bool = False, consent_only: bool = False
    ) -> list[Result]:
        """Send a batch and write how it ended.

        While the sink is halted, only as a `trial`, or `consent_only`: no more than the words of
        consent, which say nothing of what has halted it.
        What is cancelled stays in flight: the store puts it back when it is closed.
        """
        if not claims or (self._hold.left() and not trial and not consent_only):
            await self._depot.put_back(claims)
            return []
        self._under_way += 1
        self._home.clear()
        try:
            results = await self._dispatch.send(claims, consent_only=consent_only)
            await self._conclude(results, trial=trial, consent_only=consent_only)
            return results
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._home.set()

    async def over(self) -> None:
        """Return when none is under way."""
        await self._home.wait()

    async def _conclude(
        self, results: Sequence[Result], *, trial: bool, consent_only: bool
    ) -> None:
        settlements = [
            self._judge.settlement(result, trial=trial, consent_only=consent_only)
            for result in results
        ]
        await self._depot.settle(settlements)
        now = self._clock.now()
        verbose = self._log.isEnabledFor(logging.DEBUG)
        for result, settlement in zip(results, settlements, strict=True):
            self.tally.attempted(
                result.outcome, result.duration, settlement.state, _since_receipt(result, now)
            )
            if verbose:
                self._tell(result, settlement.error)
            if consent_only and settlement.is_put_back and not settlement.consent:
                self._hold.close_to_consent()
        self.failures.note(result.outcome for result in results)
        if not consent_only:
            await self._lessons.learn(results, trial=trial)

    def _tell(self, result: Result, error: str | None) -> None:
        outcome = ": ".join(filter(None, (word_of(result.outcome), error)))
        claim = result.claim
        self._log.debug("%s: attempt %d: %s", claim.event.id, claim.attempt, outcome)


def _since_receipt(result: Result, now: float) -> float | None:
    """Seconds since the callback was received; None for a replay."""
    if result.claim.replayed:
        return None
    return now - datetime.fromisoformat(result.claim.event.time).timestamp()
