"""Time limit for the synchronous code of a plugin: its import, its options, its construction.

An alarm interrupts the main thread, also in a sleep or a read. Slow code is named in the log while
it runs, and gets an error when the time is over. `os._exit` in it raises an error too: otherwise
each start would end without a reason in the log.
"""

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

IMPORT = 30.0
"""Seconds for the import of a plugin, with its registration."""
MAKE = 10.0
"""Seconds for the `__init__` of a sink, or the check of its options: callbacks may wait for it."""
LOG_INTERVAL = 5.0
"""Seconds between two lines in the log."""
ERROR_INTERVAL = 1.0
"""Seconds between two errors raised in code that continues after the first."""
MAX_ERRORS = 5
"""After this many errors the process ends."""
WRONG_CONFIGURATION = 78

log = logging.getLogger("relay")
_failed: dict[str, str] = {}
"""Code that was once too slow is refused at once in this process. A reload starts a new one."""


class TookTooLong(BaseException):
    """The time is over. A BaseException, as plugins may catch every Exception."""


@contextlib.contextmanager
def limited(what: str, seconds: float) -> Iterator[None]:
    """Raise TookTooLong in the block after `seconds`. `what` names the block, each time alike.

    Only the main thread can be interrupted; in others there is no limit. In it, `os._exit` raises
    SystemExit.
    """
    if what in _failed:
        raise TookTooLong(_failed[what])
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    alarm = _Alarm(what, seconds)
    begun = time.monotonic()
    handler = signal.signal(signal.SIGALRM, alarm.ring)
    leave = os._exit
    setattr(os, "_exit", alarm.leave)  # noqa: B010  mypy takes it for a mistake
    left, every = signal.setitimer(
        signal.ITIMER_REAL, min(LOG_INTERVAL, seconds), min(LOG_INTERVAL, ERROR_INTERVAL)
    )
    try:
        yield
    finally:
        alarm.over = True
        setattr(os, "_exit", leave)  # noqa: B010  the same
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL if handler is None else handler)
        if left:  # an alarm of other code, such as a test's time limit
            signal.setitimer(
                signal.ITIMER_REAL, max(left - (time.monotonic() - begun), 0.01), every
            )


def error_kind(error: BaseException) -> str:
    """A plugin's error without its text, which may hold the values that it was given."""
    return str(error) if isinstance(error, TookTooLong) else type(error).__name__


class _Alarm:
    """The handler of SIGALRM. It runs in the main thread about every second."""

    def __init__(self, what: str, seconds: float) -> None:
        self._what = what
        self._seconds = seconds
        self._begun = time.monotonic()
        self._logged = self._begun
        self._errors = 0
        self.over = False
        self._process = os.getpid()
        self._leave = os._exit

    def ring(self, _: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.over:
            return
        if now - self._begun >= self._seconds:
            self._raise(_place(frame))
        elif now - self._logged >= LOG_INTERVAL - ERROR_INTERVAL / 2:
            self._logged = now
            passed = now - self._begun
            log.warning("%s has taken %.0f s so far, now in %s", self._what, passed, _place(frame))

    def leave(self, status: int) -> NoReturn:
        """Replaces `os._exit`. A plugin may keep a reference to it, or call it in a fork."""
        if self.over:
            os._exit(status)
        here = threading.current_thread() is threading.main_thread()
        if not here or os.getpid() != self._process:
            self._leave(status)
        raise SystemExit(status)

    def _raise(self, place: str) -> None:
        self._errors += 1
        message = f"no end within {self._seconds:g} s; it was in {place}"
        _failed[self._what] = message
        if self._errors > MAX_ERRORS:
            log.critical(
                "%s: %s, and goes on after an error; the process ends", self._what, message
            )
            self._leave(WRONG_CONFIGURATION)
        raise TookTooLong(message)


def _place(frame: FrameType | None) -> str:
    return f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame else "code that is unknown"
