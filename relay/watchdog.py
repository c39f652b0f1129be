"""The watchdog: lets the service manager end and restart a relay that is alive in name only."""

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Mapping

from relay.clock import MICROSECONDS
from relay.sd_notify import Notifier
from relay.store import StoreError

SHARE = 3
"""It is fed so often within the time after which the manager would act."""

BEARABLE = 600.0
"""Seconds for which a disk may hang: a restart would only wait for it, too."""

Pulse = Callable[[], Awaitable[None]]


class Watchdog:
    """Feeds the manager's watchdog while the event loop turns and the store's writer answers.

    A store that refuses to write is alive: a restart would not mend a full disk. So is one that
    does not answer, for so long as is `bearable`: callbacks are kept elsewhere meanwhile.
    """

    def __init__(self, notifier: Notifier, every: float | None, bearable: float = BEARABLE) -> None:
        self._notifier = notifier
        self._every = every
        self._bearable = bearable
        self._pulse: Pulse | None = None
        self._task: asyncio.Task[None] | None = None

    @classmethod
    def of(cls, environ: Mapping[str, str], notifier: Notifier) -> "Watchdog":
        """The one that the environment asks for, which may be none."""
        return cls(notifier, interval(environ))

    def start(self) -> None:
        if self._every is not None:
            self._task = asyncio.create_task(self._feed(self._every))

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def heed(self, pulse: Pulse | None) -> None:
        """From now on it also wants this to return; with None the loop alone has to turn."""
        self._pulse = pulse

    async def _feed(self, every: float) -> None:
        loop = asyncio.get_running_loop()
        answered = loop.time()
        while True:
            if await self._answers(every):
                answered = loop.time()
            if loop.time() - answered <= self._bearable:
                self._notifier.alive()
            await asyncio.sleep(every)

    async def _answers(self, every: float) -> bool:
        """Whether the writer answers; waited for so long that the manager need not act."""
        if self._pulse is not None:
            with contextlib.suppress(StoreError):
                try:
                    await asyncio.wait_for(self._pulse(), every)
                except TimeoutError:
                    return False
        return True


def interval(environ: Mapping[str, str]) -> float | None:
    """Seconds from one meal to the next; None where no watchdog waits for this process."""
    microseconds = environ.get("WATCHDOG_USEC", "")
    meant = environ.get("WATCHDOG_PID", str(os.getpid()))
    if meant != str(os.getpid()) or not microseconds.isdecimal() or not int(microseconds):
        return None
    return int(microseconds) / MICROSECONDS / SHARE
