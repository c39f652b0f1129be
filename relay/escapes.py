"""Escapes: bytes with an encoding of single characters undone, and where each of them came from."""

import re
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple


class Escape(NamedTuple):
    """The first byte of each token, the tokens, and the decoder of one."""

    mark: bytes
    token: re.Pattern[bytes]
    value: Callable[[bytes], bytes]


@dataclass(slots=True)
class Unfolded:
    """Bytes without their escapes. The lists are of the tokens, in their order.

    They are flat: objects for the tokens would keep the garbage collector busy, and all threads
    wait for that.
    """

    data: bytes
    starts: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    """The position in `data` of the decoded token."""
    firsts: list[int] = field(default_factory=list)
    lasts: list[int] = field(default_factory=list)
    """The position of the token in the original bytes."""

    def source(self, place: int) -> tuple[int, int]:
        """The range of original bytes that a byte of `data` comes from."""
        token = bisect_right(self.starts, place) - 1
        if token < 0:
            return place, place + 1
        if place < self.ends[token]:
            return self.firsts[token], self.lasts[token]
        start = self.lasts[token] + place - self.ends[token]
        return start, start + 1


def unfolded(data: bytes, escape: Escape | None) -> Unfolded:
    """The bytes without the escapes of that kind."""
    found = Unfolded(data)
    if escape is None or escape.mark not in data:
        return found
    without, at = bytearray(), 0
    for token in escape.token.finditer(data):
        start, end = token.span()
        without += data[at:start]
        found.starts.append(len(without))
        without += escape.value(token[0])
        found.ends.append(len(without))
        found.firsts.append(start)
        found.lasts.append(end)
        at = end
    without += data[at:]
    found.data = bytes(without)
    return found


def _percent(token: bytes) -> bytes:
    return _utf16(token, b"%u") if token[1:2] == b"u" else bytes.fromhex(token[1:].decode())


def _json(token: bytes) -> bytes:
    return _utf16(token, rb"\u") if token[1:2] == b"u" else _LETTERS.get(token[1:], token[1:])


def _utf16(token: bytes, prefix: bytes) -> bytes:
    digits = token.replace(prefix, b"").decode()
    return bytes.fromhex(digits).decode("utf-16-be", "replace").encode()


def _token(prefix: bytes, rest: bytes) -> re.Pattern[bytes]:
    """The prefix with four hexadecimal digits, twice for a surrogate pair; or `rest`."""
    pair = prefix + rb"[dD][89abAB][0-9a-fA-F]{2}" + prefix + rb"[dD][c-fC-F][0-9a-fA-F]{2}"
    return re.compile(pair + b"|" + prefix + b"[0-9a-fA-F]{4}|" + rest)


_LETTERS = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"b": b"\b", b"f": b"\f"}
PERCENT = Escape(b"%", _token(b"%u", b"%[0-9a-fA-F]{2}"), _percent)
JSON = Escape(b"\\", _token(rb"\\u", rb'\\[nrtbf/"\\]'), _json)
