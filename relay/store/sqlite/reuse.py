"""Message ids that a sender used again for another message: counted, and logged as a warning."""

import logging
import math
from collections import Counter
from collections.abc import Callable

from relay.store import Receipt

INTERVAL = 60.0
"""Seconds between two lines in the log about one source."""

log = logging.getLogger("relay.store")


class ReusedIds:
    """`counts` by source, since the start of the process. `now` gives seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.counts: Counter[str] = Counter()
        self._now = now
        self._logged_at: dict[str, float] = {}
        self._logged: Counter[str] = Counter()

    def note(self, source: str, receipt: Receipt) -> None:
        """Count a receipt that says so, and log it where the last line is old enough.

        The line has neither the message id nor the number: both are the sender's text.
        """
        if not receipt.id_reused:
            return
        self.counts[source] += 1
        if self._now() - self._logged_at.get(source, -math.inf) < INTERVAL:
            return
        log.warning(
            "source %s: a message id came again with another number or text, %d since the last"
            " such line; the last of them is the event %s",
            source,
            self.counts[source] - self._logged[source],
            receipt.id,
        )
        self._logged_at[source] = self._now()
        self._logged[source] = self.counts[source]
