"""Bounds: beyond them a number of relay.yaml is taken for a slip, by a new rule.

They are metadata of pydantic types: `Annotated[Duration, between("10ms", "1d")]`.
"""

import math
from typing import Any

import pydantic

from relay.config.errors import new_rule
from relay.units import Rate, duration, size, size_text

TRUTH = "should be a number, not true or false"


def _no_truth(value: Any, info: pydantic.ValidationInfo) -> Any:
    if isinstance(value, bool):
        new_rule(info, TRUTH)
    return value


NUMBER = pydantic.BeforeValidator(_no_truth)
"""`true` would count as 1."""


def at_most(most: int) -> Any:
    """Metadata of a whole number."""

    def check(value: int, info: pydantic.ValidationInfo) -> int:
        if value > most:
            new_rule(info, f"should be at most {most}")
        return value

    return pydantic.AfterValidator(check)


def between(least: str, most: str) -> Any:
    """Metadata of a duration in seconds; one that does not end (`never`) is within."""
    shortest, longest = duration(least), duration(most)

    def check(value: float, info: pydantic.ValidationInfo) -> float:
        if not shortest <= value <= longest and value != math.inf:
            new_rule(info, f"should be between {least} and {most}")
        return value

    return pydantic.AfterValidator(check)


def sized(least: str, most: str) -> Any:
    """Metadata of a size in bytes."""
    smallest, largest = size(least), size(most)

    def check(value: int, info: pydantic.ValidationInfo) -> int:
        if not smallest <= value <= largest:
            new_rule(info, f"should be between {size_text(smallest)} and {size_text(largest)}")
        return value

    return pydantic.AfterValidator(check)


def counted(least: str, most: str) -> Any:
    """Metadata of a rate: over how long it may be counted. None, for `never`, is within."""
    shortest, longest = duration(least), duration(most)

    def check(value: Rate | None, info: pydantic.ValidationInfo) -> Rate | None:
        if value and not shortest <= value.per <= longest:
            new_rule(info, f"should be so many in a time between {least} and {most}")
        return value

    return pydantic.AfterValidator(check)
