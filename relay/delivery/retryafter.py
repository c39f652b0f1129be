"""The header `Retry-After`: seconds, or an HTTP date, which is UTC in all three of its forms."""

import re
from datetime import UTC
from email.utils import parsedate_to_datetime

LONGEST = 24 * 3600.0
"""The most seconds for which a receiver's word holds a sink."""
LONGEST_DATE = 64
"""Characters; the three forms of HTTP have less than 40."""
SECONDS = re.compile(r"[0-9]+(\.[0-9]+)?")


def parse(value: str | None, now: float) -> float | None:
    """How many seconds to wait, at most a day; None where it names no time to come.

    `now` is seconds since the epoch.
    """
    if value is None:
        return None
    value = value.strip()
    seconds = float(value[:LONGEST_DATE]) if SECONDS.fullmatch(value) else _until(value, now)
    return min(seconds, LONGEST) if seconds > 0 else None


def _until(date: str, now: float) -> float:
    if len(date) > LONGEST_DATE:
        return 0.0
    try:
        moment = parsedate_to_datetime(date)
        # Python reads asctime and -0000 without a zone; `timestamp` would then take the local one.
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return moment.timestamp() - now
    except (ValueError, TypeError, OverflowError):
        return 0.0
