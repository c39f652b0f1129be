"""Failures: the failed attempts of one sink since the last one that succeeded.

`status` shows the last of them, and the log has a line for the first one and then one a minute with
their number. Without it a sink that fails looks well until its circuit breaker opens.
"""

import logging
import math
from collections.abc import Iterable
from typing import Any

from relay.clock import MICROSECONDS, Clock
from relay.outcome import Delivered, Outcome
from relay.redact import mask_all

PERIOD = 60.0
"""Seconds between two lines in the log."""


class Failures:
    """The failures of one sink."""

    def __init__(self, clock: Clock, log: logging.Logger) -> None:
        self._clock = clock
        self._log = log
        self._number = 0
        self._not_logged = 0
        self._logged_at = -math.inf
        self._since = 0
        self._at = 0
        self._error = ""

    def note(self, outcomes: Iterable[Outcome]) -> None:
        """Count the failed ones of a batch; one that was delivered ends all before it."""
        for outcome in outcomes:
            if isinstance(outcome, Delivered):
                self._number = 0
            else:
                self._count(outcome.reason)
        if self._not_logged and self._clock.monotonic() - self._logged_at >= PERIOD:
            self._write()

    def view(self) -> dict[str, Any]:
        """`last_error`, while the last attempt failed: its times in microseconds."""
        if not self._number:
            return {}
        return {
            "last_error": {
                "error": self._error,
                "at": self._at,
                "since": self._since,
                "attempts": self._number,
            }
        }

    def _count(self, reason: str) -> None:
        self._at = int(self._clock.now() * MICROSECONDS)
        if not self._number:
            self._since = self._at
        self._number += 1
        self._not_logged += 1
        self._error = mask_all(reason) or "it gave no reason"

    def _write(self) -> None:
        self._log.warning("failed attempts: %d, the last: %s", self._not_logged, self._error)
        self._not_logged = 0
        self._logged_at = self._clock.monotonic()
