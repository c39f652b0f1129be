"""The hold: what keeps a sink from being tried, kept in the store over restarts.

A sink is paused (somebody must act; a probe sees whether they have) or parked (by a Retry-After
or by the breaker). The time for which it is either does not count for any delivery.
"""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from typing import Any

from relay.clock import MICROSECONDS, Clock, Stopwatch, wait_for_event
from relay.delivery.retryafter import LONGEST
from relay.redact import mask_all
from relay.store import SinkState

PROBE_EVERY = 300.0
STEADY = 600.0
"""Seconds at work after which an earlier crash and the next are not two in a row."""
NEWS = 1.0
"""A park that ends so little later is none: every record of a refused batch asks for it anew."""

Save = Callable[[SinkState], Awaitable[None]]


class Hold:
    """The hold of one sink. `changed` is called, and the state saved, whenever it changes.

    The reasons that it keeps and shows hold no contact's number.
    """

    def __init__(
        self,
        state: SinkState,
        clock: Clock,
        save: Save,
        changed: Callable[[], None],
        log: logging.Logger,
    ) -> None:
        self._state = state
        self._clock = clock
        self._save = save
        self._tell = changed
        self._log = log
        self._active = Stopwatch(clock, state.active)
        self._begun = state.active
        self._changed = asyncio.Event()
        self._closed_to_consent = False
        # When all halts are over, by the clock that cannot jump.
        self._over_at = clock.monotonic() + planned(state)

    @property
    def paused(self) -> bool:
        return self._state.paused is not None

    @property
    def paused_by_operator(self) -> bool:
        return self._state.paused_by_operator

    @property
    def parked(self) -> bool:
        return self._state.parked is not None

    @property
    def breaker_open(self) -> bool:
        return self._state.breaker_open

    @property
    def open_to_consent(self) -> bool:
        """Whether words of consent may be sent though the sink is paused.

        What paused it may concern other fields, or other records. One that fails closes it until
        the next probe.
        """
        halted_otherwise = self.paused_by_operator or self.parked or self.breaker_open
        return self.paused and not halted_otherwise and not self._closed_to_consent

    def close_to_consent(self) -> None:
        """A word of consent could not be written either."""
        self._closed_to_consent = True

    def left(self) -> float:
        """Seconds for which the sink is not to be tried; 0 when it is."""
        if self._state.paused_by_operator:
            return math.inf
        left = over_at(self._state) / MICROSECONDS - self._clock.now()
        return max(0.0, min(left, self._over_at - self._clock.monotonic()))

    async def over(self) -> None:
        """Return when the sink is to be tried."""
        while left := self.left():
            self._changed.clear()
            await wait_for_event(self._changed, self._clock, left)

    def after(self, seconds: float) -> int:
        """The time so many seconds from now, in microseconds since the epoch."""
        return int((self._clock.now() + seconds) * MICROSECONDS)

    def active(self) -> float:
        """Seconds that the sink was neither paused nor parked, over all restarts."""
        return self._active.elapsed()

    def go(self) -> None:
        """From now on the sink is tried."""
        self._active.start()

    def status(self) -> dict[str, Any]:
        """As in `view`."""
        return view(self._state)

    async def pause(
        self, reason: str, *, after: float | None = None, by_operator: bool = False
    ) -> None:
        """Halt it until a probe, in `after` seconds, finds it well; the operator's: for good."""
        if self._state.paused_by_operator and not by_operator:
            return
        reason = mask_all(reason)
        seconds = PROBE_EVERY if after is None else min(after, LONGEST)
        if self._state.paused is None or by_operator:
            self._log.log(logging.INFO if by_operator else logging.ERROR, "paused: %s", reason)
        elif self._state.paused == reason and seconds <= self.left() + NEWS:
            return  # the next record of a batch, with the same to say
        self._closed_to_consent = False
        self._state.paused = reason
        self._state.paused_by_operator = by_operator
        self._state.probe_at = self.after(seconds)
        await self._halt(seconds)

    async def park(self, reason: str, seconds: float) -> None:
        """Halt it for so many seconds, a day at the most."""
        reason = mask_all(reason)
        seconds = min(max(seconds, 0.0), LONGEST)
        if self._state.parked is None or seconds > self.left() + NEWS:
            self._log.warning("parked for %g s: %s", seconds, reason)
            self._state.parked = reason
            self._state.parked_until = self.after(seconds)
            await self._halt(seconds)

    async def open_breaker(self, reason: str, cooldown: float) -> None:
        """Park it; the next delivery is a trial."""
        if not self._state.breaker_open:
            self._state.breaker_open = True
            await self.park(reason, cooldown)

    async def lift(self) -> None:
        """Nothing keeps it any more."""
        self._state = SinkState(active=self.active(), crashes=self._state.crashes)
        self._over_at = 0.0
        self._active.start()
        self._log.info("resumed")
        await self._change()

    async def stop(self) -> None:
        """The time that follows does not count either. A process that stops has not crashed."""
        self._active.stop()
        self._state.crashes = 0
        await self.save()

    async def save(self) -> None:
        """Write it down, with the seconds that have passed."""
        self._state.active = self.active()
        if self._state.active - self._begun >= STEADY:
            self._state.crashes = 0
        await self._save(self._state)

    async def _halt(self, seconds: float) -> None:
        self._state.halted_at = self.after(0.0)
        self._state.since = self._state.since or self._state.halted_at
        self._over_at = max(self._over_at, self._clock.monotonic() + seconds)
        self._active.stop()
        await self._change()

    async def _change(self) -> None:
        self._changed.set()
        self._tell()
        await self.save()


def view(state: SinkState) -> dict[str, Any]:
    """`state` (running, paused, parked) and, unless it runs, `reason`, `since` and `until`.

    The times are in microseconds since the epoch; `until` is None where an operator has to act.
    """
    until = None if state.paused_by_operator else over_at(state)
    times = {"since": state.since or state.halted_at, "until": until}
    if state.paused is not None:
        return {"state": "paused", "reason": state.paused, **times}
    if state.parked is not None:
        return {"state": "parked", "reason": state.parked, **times}
    return {"state": "running"}


def over_at(state: SinkState) -> int:
    """When the sink is to be tried, by the clock on the wall."""
    return state.parked_until if state.paused is None else state.probe_at


def planned(state: SinkState) -> float:
    """For how many seconds it was halted: it waits no longer, whatever the wall clock says."""
    return (over_at(state) - state.halted_at) / MICROSECONDS
