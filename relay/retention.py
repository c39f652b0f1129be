"""Retention: purges what is older than its term every hour, in small steps with rests between.

A clock that jumps ahead makes everything look old. So such a clock is believed only when it has
gone on from there for a day: until then nothing is purged, and the log says why.
"""

import asyncio
import contextlib
import logging
import math
from collections.abc import AsyncIterator

from relay.clock import MICROSECONDS, Clock
from relay.config.model import Retention
from relay.store import PurgeCutoffs, Purged, StoreError
from relay.store.port import Store

FIRST = 30.0
"""Seconds from the start to the first round."""
EVERY = 3600.0
REST = 0.02
DUTY = 4
"""A round rests so many times as long as each of its steps took: it is to be a small part of what
the store does."""
JUMP = 24 * 3600.0
"""Seconds by which a clock may be ahead of what it should say."""
DOUBT = 24 * 3600.0

log = logging.getLogger("relay")


def before(retention: Retention, now: float) -> PurgeCutoffs:
    """What has been there for longer than its term."""
    return PurgeCutoffs(
        _microseconds(now - retention.delivered),
        _microseconds(now - retention.dead),
        _microseconds(now - retention.quarantine),
        _microseconds(now),
    )


def older_than(seconds: float, now: float) -> PurgeCutoffs:
    """All that was received longer ago than that, however it ended."""
    moment = _microseconds(now - seconds)
    return PurgeCutoffs(moment, moment, moment, _microseconds(now))


def _microseconds(moment: float) -> int:
    return 0 if moment == -math.inf else max(0, int(moment * MICROSECONDS))


def pause(took: float) -> float:
    """The seconds until the next round, after one that took so many.

    A busy store rests as long as it was purged and no longer: what comes in meanwhile has to go
    in the next round, and with long rests each round would have more to do than the last one.
    """
    return max(EVERY, took)


class Throttle:
    """Rests between the steps of a purge, in proportion to what each of them took."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._began = clock.monotonic()

    async def rest(self) -> None:
        took = self._clock.monotonic() - self._began
        await self._clock.sleep(max(REST, DUTY * took))
        self._began = self._clock.monotonic()


class ClockGuard:
    """Whether the wall clock can be believed, compared with the one that only goes forward."""

    def __init__(self, now: float, monotonic: float, last: float | None) -> None:
        """`last` is what the wall clock said when an earlier process looked, if one did."""
        self._ahead = now - monotonic
        self._doubt_until = 0.0
        # How long the machine was off is unknown; more than a month would be a lot to lose.
        if last is not None and now - last > 30 * JUMP:
            self._doubt_until = monotonic + DOUBT

    def believed(self, now: float, monotonic: float) -> bool:
        if (now - monotonic) - self._ahead > JUMP:
            self._doubt_until = monotonic + DOUBT
        self._ahead = now - monotonic
        return monotonic >= self._doubt_until


class RetentionTask:
    """Purges round by round, for as long as `run` runs."""

    def __init__(self, store: Store, retention: Retention, clock: Clock) -> None:
        self._store = store
        self._retention = retention
        self._clock = clock

    async def run(self) -> None:
        clock = self._clock
        guard = ClockGuard(clock.now(), clock.monotonic(), await self._store.last_purge())
        await clock.sleep(FIRST)
        while True:
            began = clock.monotonic()
            now = clock.now()
            if guard.believed(now, began):
                await self._round(now)
            else:
                log.warning(
                    "nothing is purged: the clock has jumped ahead; set it right, or it is believed"
                    " after a day"
                )
            await clock.sleep(pause(clock.monotonic() - began))

    async def _round(self, now: float) -> None:
        try:
            total = await self._purged(before(self._retention, now))
            await self._store.note_purge(now)
        except StoreError as error:  # full or broken: the next round, or the next process
            log.warning("the purge stopped: %s", error)
            return
        if total.events or total.callbacks:
            log.info("purged %d events and %d quarantined callbacks", total.events, total.callbacks)

    async def _purged(self, what: PurgeCutoffs) -> Purged:
        events = callbacks = 0
        throttle = Throttle(self._clock)
        async for step in self._store.purge(what):
            events += step.events
            callbacks += step.callbacks
            await throttle.rest()
        return Purged(0, events, callbacks)


@contextlib.asynccontextmanager
async def run_retention(store: Store, retention: Retention, clock: Clock) -> AsyncIterator[None]:
    """Purge in the background meanwhile."""
    rounds = asyncio.create_task(RetentionTask(store, retention, clock).run())
    rounds.add_done_callback(_log_failure)
    try:
        yield
    finally:
        rounds.cancel()
        await asyncio.wait({rounds})


def _log_failure(rounds: asyncio.Task[None]) -> None:
    if not rounds.cancelled() and (error := rounds.exception()):
        log.error("nothing is purged any more: %s", type(error).__name__)
