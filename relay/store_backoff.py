"""The breakage: a store that failed while it was used, and is let alone for a while then."""

from dataclasses import dataclass

FIRST = 5.0
LAST = 60.0
STEADY = 600.0
"""Seconds after which a store that breaks is no longer one that breaks again and again."""


@dataclass(frozen=True, slots=True)
class Breakage:
    """Why it broke, and how many seconds it is let alone."""

    reason: str
    pause: float


def breakage(reason: str, lasted: float, last: Breakage | None) -> Breakage:
    """What broke after so many seconds of use; `last` is how it had broken before."""
    again = last is not None and lasted < STEADY
    return Breakage(reason, min(2 * last.pause, LAST) if last and again else FIRST)
