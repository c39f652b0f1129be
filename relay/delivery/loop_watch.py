"""Standstill: a plugin that does not let the event loop go on is not waited for without end.

The looks of a second thread are counted, not seconds: a machine that was suspended, or that is so
busy that neither thread runs, has kept nobody waiting.
"""

import logging
from collections.abc import Callable

from relay.delivery.crashlog import CrashLog
from relay.delivery.plugincode import POSITION, Call

LONG = 1.0
"""Seconds in one step of a plugin's code. A process that ends then has crashed in the plugin."""
TOO_LONG = 15.0
"""Seconds in one step, after which the process ends itself: systemd's watchdog would, after 20."""

log = logging.getLogger("relay")


class Standstill:
    """Told by `look`, every `pause` seconds, to see how long the loop has been in one step.

    `end` is called, in the looking thread, where that is too long.
    """

    def __init__(
        self,
        crash_log: CrashLog,
        pause: float,
        end: Callable[[], None],
        too_long: float | None = None,
    ) -> None:
        self._too_long = TOO_LONG if too_long is None else too_long
        self._crash_log = crash_log
        self._pause = pause
        self._end = end
        self._step = -1
        self._looks = 0
        self._written = False
        self._stopped = False

    def look(self) -> None:
        step, call = POSITION.steps, POSITION.call
        if self._stopped:
            return
        if call is None or step != self._step:
            self._come_back(step)
            return
        self._looks += 1
        passed = self._looks * self._pause
        if passed >= LONG and not self._written:
            self._written = True
            self._crash_log.write(call, f"no return for {LONG:g} s")
        if passed >= self._too_long:
            self._give_up(call)

    def stop(self) -> None:
        """The process stops, which has another limit and is no crash."""
        self._stopped = True
        self._crash_log.clear()

    def _come_back(self, step: int) -> None:
        self._step = step
        self._looks = 0
        if self._written:
            self._written = False
            self._crash_log.clear()

    def _give_up(self, call: Call) -> None:
        self._crash_log.clear()
        self._crash_log.write(call, f"no return for {self._too_long:g} s")
        log.critical("no return for %g s in %s", self._too_long, call)
        self._end()
