"""A time limit for what a plugin does when it is loaded and made: code that nothing can await.

An alarm interrupts the main thread, also where it sleeps or reads. What does not end is named in
the log while it lasts, and once the time is over an error is raised in it. There, `os._exit` is an
error as well: it would end each start, and leave no word of the reason.
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
TELL = 5.0
"""Seconds between two lines in the log."""
INSIST = 1.0
"""Seconds between two errors raised in code that goes on after the first."""
ERRORS = 5
"""After so many, the process ends."""
WRONG_CONFIGURATION = 78

log = logging.getLogger("relay")
_over: dict[str, str] = {}
"""What was once too slow is not waited for again in this process: a reload starts another."""


class TookTooLong(BaseException):
    """It is no Exception, as plugins pass over those."""


@contextlib.contextmanager
def limited(what: str, seconds: float) -> Iterator[None]:
    """Raise TookTooLong in the block after so long. `what` names it, each time in the same words.

    Only the main thread can be interrupted; in others there is no limit. In it, `os._exit` raises
    SystemExit.
    """
    if what in _over:
        raise TookTooLong(_over[what])
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    alarm = _Alarm(what, seconds)
    begun = time.monotonic()
    handler = signal.signal(signal.SIGALRM, alarm.ring)
    leave = os._exit
    setattr(os, "_exit", alarm.leave)  # noqa: B010  mypy takes it for a mistake
    left, every = signal.setitimer(signal.ITIMER_REAL, min(TELL, seconds), min(TELL, INSIST))
    try:
        yield
    finally:
        alarm.over = True
        setattr(os, "_exit", leave)  # noqa: B010  the same
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL if handler is None else handler)
        if left:  # somebody else's alarm, as that of a test
            signal.setitimer(
                signal.ITIMER_REAL, max(left - (time.monotonic() - begun), 0.01), every
            )


class _Alarm:
    """Rings every second or so, in the main thread, between two of its steps."""

    def __init__(self, what: str, seconds: float) -> None:
        self._what = what
        self._seconds = seconds
        self._begun = time.monotonic()
        self._told = self._begun
        self._errors = 0
        self.over = False
        self._process = os.getpid()
        self._leave = os._exit

    def ring(self, _: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.over:
            return
        if now - self._begun >= self._seconds:
            self._insist(_place(frame))
        elif now - self._told >= TELL - INSIST / 2:
            self._told = now
            passed = now - self._begun
            log.warning("%s has taken %.0f s so far, now in %s", self._what, passed, _place(frame))

    def leave(self, status: int) -> NoReturn:
        """In place of `os._exit`, which a plugin may have kept for later, or call in a fork."""
        if self.over:
            os._exit(status)
        here = threading.current_thread() is threading.main_thread()
        if not here or os.getpid() != self._process:
            self._leave(status)
        raise SystemExit(status)

    def _insist(self, place: str) -> None:
        self._errors += 1
        message = f"no end within {self._seconds:g} s; it was in {place}"
        _over[self._what] = message
        if self._errors > ERRORS:
            log.critical(
                "%s: %s, and goes on after an error; the process ends", self._what, message
            )
            self._leave(WRONG_CONFIGURATION)
        raise TookTooLong(message)


def _place(frame: FrameType | None) -> str:
    return f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame else "code that is unknown"
