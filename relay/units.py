"""Durations, sizes and rates, as relay.yaml writes them: `250ms`, `64KiB`, `100/10s`, `10MiB/s`."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import pydantic
from pydantic_core import PydanticCustomError

NEVER = "never"
SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
BYTES = {"B": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3, "TiB": 1024**4}

# Fifteen digits are more than anybody means, and few enough for a float to hold exactly.
NUMBER = r"[0-9]{1,15}(?:\.[0-9]{1,9})?"
DURATION = rf"({NUMBER})(ms|s|m|h|d)"
SIZE = rf"({NUMBER})(B|KiB|MiB|GiB|TiB)"
PER = rf"((?:{NUMBER})?)(ms|s|m|h|d)"
RATE = rf"([0-9]{{1,9}})/{PER}"
BYTE_RATE = rf"{SIZE}/{PER}"


@dataclass(frozen=True, slots=True)
class Rate:
    """At most `count` in any `per` seconds."""

    count: int
    per: float


def duration(text: str) -> float:
    """`250ms 5s 10m 6h 4d` in seconds."""
    message = "should be a duration such as 250ms, 5s, 10m, 6h or 4d"
    return _seconds(*_parts(DURATION, text, message))


def term(text: str) -> float:
    """As `duration`; `never` is a time that does not come."""
    if text.strip() == NEVER:
        return float("inf")
    message = "should be a duration such as 10m, 6h or 4d, or never"
    return _seconds(*_parts(DURATION, text, message))


def size(text: str) -> int:
    """`512B 64KiB 10MiB 1GiB` in bytes."""
    number, unit = _parts(SIZE, text, "should be a size such as 512B, 64KiB, 10MiB or 1GiB")
    return int(float(number) * BYTES[unit])


def size_text(number: int) -> str:
    """Bytes as people read them: `512 B`, `1.5 GiB`."""
    unit = next((unit for unit in reversed(BYTES) if number >= BYTES[unit]), "B")
    return f"{number} B" if unit == "B" else f"{number / BYTES[unit]:,.1f} {unit}"


def rate(text: str) -> Rate:
    """`100/10s`, `5/s`: how many in how long."""
    message = "should be a rate such as 100/10s (100 in any 10 seconds) or 5/s"
    count, *per = _parts(RATE, text, message)
    return _above_zero(Rate(int(count), _seconds(*per)))


def byte_rate(text: str) -> Rate:
    """`10MiB/1s`: how many bytes in how long."""
    message = "should be a rate such as 10MiB/s (10 MiB in any second) or 1GiB/1h"
    number, unit, *per = _parts(BYTE_RATE, text, message)
    return _above_zero(Rate(int(float(number) * BYTES[unit]), _seconds(*per)))


def _seconds(number: str, unit: str) -> float:
    """A unit without a number is one of it, as in `5/s`."""
    return round(float(number or 1) * SECONDS[unit], 9)


def _above_zero(rate: Rate) -> Rate:
    if not rate.count or not rate.per:
        raise ValueError("should be a rate above zero")
    return rate


def threshold(text: str) -> Rate | None:
    """As `rate`: so many in so long are too many; with `never` none are."""
    return None if text.strip() == NEVER else rate(text)


def _parts(pattern: str, text: str, message: str) -> tuple[str, ...]:
    # The message does not repeat the text, as it may have been filled in from a secret.
    if match := re.fullmatch(pattern, text.strip()):
        return match.groups()
    raise ValueError(message)


def text_type(parse: Callable[[str], Any], kind: str, json_schema: Mapping[str, Any]) -> Any:
    """What makes `parse` a pydantic field type that is written as text."""

    def validate(value: Any) -> Any:
        try:
            return parse(value if isinstance(value, str) else "")
        except ValueError as error:
            raise PydanticCustomError(f"relay_{kind}", "{reason}", {"reason": str(error)}) from None

    return (
        pydantic.PlainValidator(validate),
        pydantic.WithJsonSchema({"type": "string", **json_schema}),
    )


Term = Annotated[float, *text_type(term, "term", {"pattern": f"^({NEVER}|{DURATION})$"})]
Duration = Annotated[float, *text_type(duration, "duration", {"pattern": f"^{DURATION}$"})]
Size = Annotated[int, *text_type(size, "size", {"pattern": f"^{SIZE}$"})]
Threshold = Annotated[
    Rate | None, *text_type(threshold, "rate", {"pattern": f"^({NEVER}|{RATE})$"})
]
RateLimit = Annotated[Rate, *text_type(rate, "rate", {"pattern": f"^{RATE}$"})]
ByteRate = Annotated[Rate, *text_type(byte_rate, "rate", {"pattern": f"^{BYTE_RATE}$"})]
