"""The decimal digits of every script, in UTF-8: the reader of phone numbers takes them all."""

import re
import unicodedata
from collections.abc import Collection
from functools import cache

HIGHEST = 0x20000
"""No script with digits lies beyond it."""
FILLING = b"?"


def as_ascii(data: bytes) -> bytes:
    """Bytes of the same length, in which each digit beyond ASCII is an ASCII one, and filled up."""
    if data.isascii():
        return data
    return _digits().sub(_ascii, data)


def width(first: int) -> int:
    """How many bytes a character of UTF-8 has that begins with this one."""
    return 1 if first < 0x80 else 2 if first < 0xE0 else 3 if first < 0xF0 else 4


def _ascii(found: re.Match[bytes]) -> bytes:
    digit = str(unicodedata.decimal(found[0].decode())).encode()
    return digit.ljust(len(found[0]), FILLING)


@cache
def _digits() -> re.Pattern[bytes]:
    """A search for the first bytes goes first: it is several times as fast."""
    surrogates = range(0xD800, 0xE000)
    text = "".join(chr(point) for point in range(0x80, HIGHEST) if point not in surrogates)
    digits = [digit.encode() for digit in re.findall(r"\d", text)]
    firsts = b"".join({re.escape(digit[:1]) for digit in digits})
    return re.compile(b"(?=[%s])(?:%s)" % (firsts, _any_of(digits)))


def _any_of(endings: Collection[bytes]) -> bytes:
    """A pattern that tries no byte twice."""
    if endings == {b""}:
        return b""
    by_first: dict[bytes, set[bytes]] = {}
    for ending in endings:
        by_first.setdefault(ending[:1], set()).add(ending[1:])
    return b"(?:%s)" % b"|".join(
        re.escape(first) + _any_of(rest) for first, rest in by_first.items()
    )
