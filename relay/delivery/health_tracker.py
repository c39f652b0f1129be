"""The lessons: what results say about the sink itself, rather than about one delivery."""

from collections.abc import Sequence

from relay.config.loader import SinkConfig
from relay.delivery.breaker import Breaker, Streak
from relay.delivery.gate import Hold
from relay.delivery.queue import Depot
from relay.delivery.sender import STREAK, MapFailed, Result
from relay.outcome import Delivered, Pause, Reject, Retry
from relay.store import Claim

THROTTLED = 429


class Lessons:
    """Halts the sink by its hold, when results say that it is down or wrongly set up."""

    def __init__(self, config: SinkConfig, hold: Hold, depot: Depot) -> None:
        self._config = config.breaker
        self._hold = hold
        self._depot = depot
        self._breaker = Breaker(config.breaker.failures)
        self._streak = Streak(STREAK)

    def forget(self) -> None:
        """Nothing counts against the sink any more."""
        self._breaker.success()
        self._streak.end()

    async def learn(self, results: Sequence[Result], *, trial: bool) -> None:
        """Learn from what went together; what a failed `trial` says, the recovery sees to.

        To the breaker all failures of one batch are one: a single lost connection fails them all.
        """
        counting = next(filter(_counts_as_failure, results), None)
        for each in results:
            await self._learn(each, trial=trial, counts=each is counting)

    async def _learn(self, result: Result, *, trial: bool, counts: bool) -> None:
        claim, outcome = result.claim, result.outcome
        match outcome:
            case Delivered():
                self.forget()
            case Pause():
                await self._hold.pause(outcome.reason, after=outcome.after)
            case Retry(after=(float() | int()) as after):
                await self._hold.park(f"asked to wait: {outcome.reason}", after)
            case Retry() if counts and not trial:
                await self._learn_from_failure(claim, outcome)
            case Reject() if not trial:
                await self._learn_from_refusal(claim, outcome)
            case _:
                pass

    async def _learn_from_failure(self, claim: Claim, outcome: Retry) -> None:
        if self._breaker.failure(claim.contact):
            await self._hold.open_breaker(
                f"{self._config.failures} contacts failed in a row,"
                f" the last with: {outcome.reason}",
                self._config.cooldown,
            )

    async def _learn_from_refusal(self, claim: Claim, outcome: Reject) -> None:
        cause = MapFailed if isinstance(outcome, MapFailed) else outcome.status
        if cause is None:
            return
        if streak := self._streak.refusal(cause, claim.contact, claim.seq):
            await self._hold.pause(f"{STREAK} contacts in a row were refused: {outcome.reason}")
            await self._depot.revive(streak)


def _counts_as_failure(result: Result) -> bool:
    outcome = result.outcome
    return isinstance(outcome, Retry) and outcome.after is None and outcome.status != THROTTLED
