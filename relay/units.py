"""Units: durations, sizes, rates and host:port as relay.yaml writes them, and bounds for them.

`250ms`, `64KiB`, `100/10s`, `10MiB/s`, `127.0.0.1:8080`. Beyond a bound a number is taken for a
slip and refused by a new rule. Bounds are metadata of pydantic types:
`Annotated[Duration, between("10ms", "1d")]`.
"""

import ipaddress
import math
import re
from dataclasses import dataclass
from typing import Annotated, Any, Self

import pydantic

from relay.validation import new_rule, text_type

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

NEVER = "never"
SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
BYTES = {"B": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3, "TiB": 1024**4}

# Fifteen digits are more than anybody means, and few enough for a float to hold exactly.
_DIGITS = r"[0-9]{1,15}(?:\.[0-9]{1,9})?"
DURATION = rf"({_DIGITS})(ms|s|m|h|d)"
SIZE = rf"({_DIGITS})(B|KiB|MiB|GiB|TiB)"
PER = rf"((?:{_DIGITS})?)(ms|s|m|h|d)"
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


Term = Annotated[float, *text_type(term, "term", {"pattern": f"^({NEVER}|{DURATION})$"})]
Duration = Annotated[float, *text_type(duration, "duration", {"pattern": f"^{DURATION}$"})]
Size = Annotated[int, *text_type(size, "size", {"pattern": f"^{SIZE}$"})]
"""An option that is a size, as in `64KiB`. Its value is in bytes."""
Threshold = Annotated[
    Rate | None, *text_type(threshold, "rate", {"pattern": f"^({NEVER}|{RATE})$"})
]
RateLimit = Annotated[Rate, *text_type(rate, "rate", {"pattern": f"^{RATE}$"})]
ByteRate = Annotated[Rate, *text_type(byte_rate, "rate", {"pattern": f"^{BYTE_RATE}$"})]

HOST_PORT_FORM = 'should be an address such as 127.0.0.1:8080, localhost:8080 or "[::1]:8080"'


@dataclass(frozen=True, slots=True)
class HostPort:
    """A host, or its number, and a port; port 0 lets the system choose one."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Self:
        host, separator, port = text.rpartition(":")
        host, bracketed = _without_brackets(host)
        if not (separator and host and port.isdecimal() and port.isascii()):
            raise ValueError(HOST_PORT_FORM)
        if (":" in host) != bracketed or int(port) > 65535:
            raise ValueError(HOST_PORT_FORM)
        return cls(host, int(port))

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _without_brackets(host: str) -> tuple[str, bool]:
    if host.startswith("[") and host.endswith("]"):
        return host[1:-1], True
    return host, False


Listen = Annotated[HostPort, *text_type(HostPort.parse, "address", {"pattern": r":[0-9]{1,5}$"})]


BOOLEAN = "should be a number, not true or false"


def _refuse_boolean(value: Any, info: pydantic.ValidationInfo) -> Any:
    if isinstance(value, bool):
        new_rule(info, BOOLEAN)
    return value


NUMBER = pydantic.BeforeValidator(_refuse_boolean)
"""`true` would count as 1."""


@dataclass(frozen=True, slots=True)
class Bounds(pydantic.AfterValidator):
    """A check of bounds, with the sentence that describes them."""

    description: str


def at_most(most: int) -> Any:
    """Metadata of a whole number."""

    def check(value: int, info: pydantic.ValidationInfo) -> int:
        if value > most:
            new_rule(info, f"should be at most {most}")
        return value

    return Bounds(check, f"At most {most:,}.")


def between(least: str, most: str) -> Any:
    """Metadata of a duration in seconds; one that does not end (`never`) is within."""
    shortest, longest = duration(least), duration(most)

    def check(value: float, info: pydantic.ValidationInfo) -> float:
        if not shortest <= value <= longest and value != math.inf:
            new_rule(info, f"should be between {least} and {most}")
        return value

    return Bounds(check, f"From {least} to {most}.")


def sized(least: str, most: str) -> Any:
    """Metadata of a size in bytes."""
    smallest, largest = size(least), size(most)

    def check(value: int, info: pydantic.ValidationInfo) -> int:
        if not smallest <= value <= largest:
            new_rule(info, f"should be between {size_text(smallest)} and {size_text(largest)}")
        return value

    return Bounds(check, f"From {least} to {most}.")


def counted(least: str, most: str) -> Any:
    """Metadata of a rate: over how long it may be counted. None, for `never`, is within."""
    shortest, longest = duration(least), duration(most)

    def check(value: Rate | None, info: pydantic.ValidationInfo) -> Rate | None:
        if value and not shortest <= value.per <= longest:
            new_rule(info, f"should be so many in a time between {least} and {most}")
        return value

    return Bounds(check, f"Counted over {least} to {most}.")
