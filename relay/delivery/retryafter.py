"""The header `Retry-After`: seconds, or an HTTP date."""

import re
from email.utils import parsedate_to_datetime

LONGEST = 24 * 3600.0
"""The most seconds for which a receiver's word holds a sink."""
SECONDS = re.compile(r"[0-9]+(\.[0-9]+)?")


def parse(value: str | None, now: float) -> float | None:
    """How many seconds to wait, at most a day; None where it names no time to come.

    `now` is seconds since the epoch.
    """
    if value is None:
        return None
    value = value.strip()
    seconds = float(value) if SECONDS.fullmatch(value) else _until(value, now)
    return min(seconds, LONGEST) if seconds > 0 else None


def _until(date: str, now: float) -> float:
    try:
        return parsedate_to_datetime(date).timestamp() - now
    except (ValueError, TypeError, OverflowError):
        return 0.0
