"""Moments, as people write them: `2026-11-23`, `2026-11-23T12:00`, or `2h` for two hours ago."""

from collections.abc import Callable
from datetime import datetime, tzinfo

import click

from relay.clock import MICROSECONDS
from relay.units import duration

Resolve = Callable[[tzinfo, float], int]


def moment(text: str) -> Resolve:
    """What gives the moment in microseconds since the epoch, for a time zone and the time now."""
    try:
        ago = duration(text)
    except ValueError:
        written = _date(text)
        return lambda zone, _: _microseconds(written, zone)
    return lambda _, now: int(max(now - ago, 0.0) * MICROSECONDS)


def _date(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise click.BadParameter(
            f"{text!r} is neither a date, nor a date and time, nor a duration such as 2h"
        ) from None


def _microseconds(written: datetime, zone: tzinfo) -> int:
    aware = written if written.tzinfo else written.replace(tzinfo=zone)
    return int(aware.timestamp() * MICROSECONDS)
