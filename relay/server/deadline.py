"""The deadline: what somebody may wait for, and what is done when it does not come."""

import asyncio
import math
from collections.abc import Callable

TURN = 0.001
"""Seconds until a timer that is set in a timer: the sockets are looked at before it."""


class Deadline:
    """A time that is set again and again, and what happens when it is missed.

    There is one timer, which is set anew only if it would come too late; if it comes too early, it
    sets itself again. So a busy connection hardly ever touches it.

    After a standstill timers come before the sockets, where all may lie that was waited for. So a
    deadline that is missed is put off, once, for as long as that was noticed too late: what has
    come meanwhile is read, and who waited for us can go on.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, missed: Callable[[], None]) -> None:
        self._loop = loop
        self._missed = missed
        self._patience = 1.0
        self._at = math.inf
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf

    def set(self, seconds: float) -> None:
        """Wait for so long from now."""
        self._patience = seconds
        self._at = self._loop.time() + seconds
        if self._timer_at > self._at:
            self.cancel()
            self._set_timer(seconds)

    def lift(self) -> None:
        """Wait for as long as it takes."""
        self._at = math.inf

    def cancel(self) -> None:
        """Let go of the timer, at the end or before another is set."""
        if self._timer is not None:
            self._timer.cancel()

    def end(self) -> None:
        """Let go of everything; nothing is missed any more."""
        self.cancel()
        self._timer, self._missed = None, _nothing

    def waited(self) -> float:
        """Which share of the time is up; -1 where none is set."""
        if self._at == math.inf:
            return -1.0
        return 1 - (self._at - self._loop.time()) / self._patience

    def _set_timer(self, seconds: float, put_off: float = math.inf) -> None:
        self._timer_at = self._loop.time() + seconds
        self._timer = self._loop.call_later(seconds, self._ring, put_off)

    def _ring(self, put_off: float) -> None:
        """Act on the deadline if it is the one that was put off; otherwise put it off."""
        self._timer, self._timer_at = None, math.inf
        late = self._loop.time() - self._at
        if late >= 0 and self._at == put_off:
            self._missed()
        elif late >= 0:
            self._set_timer(max(TURN, min(late, self._patience)), put_off=self._at)
        elif self._at < math.inf:
            self._set_timer(-late)


def _nothing() -> None:
    """What happens when nobody waits."""
