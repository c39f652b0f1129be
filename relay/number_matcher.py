"""Traces: the ways in which a number may stand in some bytes, and how they are blacked out.

Bytes are read in each way in which the relay itself reads callbacks: as they are, with their
percent-encoding undone, and with the escapes of JSON undone. In each of them the digits of every
script count, and the marks that people put between digits.
"""

import re
from collections.abc import Iterator
from typing import Any

import phonenumbers
from phonenumbers import PhoneNumberFormat

from relay import phone
from relay.digits import as_ascii, width
from relay.escapes import JSON, PERCENT, Escape, Unfolded, unfolded
from relay.phone import national

# Between two digits: whatever is no ASCII digit or letter and no `"`, `&` or `=`, which part one
# value from the next; and one x, as the reader of phone numbers has it. A number that is blacked
# out is more of them. There is one way to read any bytes: with two, a search could take hours.
MARKS = rb'[^0-9A-Za-z"&=]{0,16}+'
BETWEEN = MARKS + rb"(?:[xX]" + MARKS + rb")?+"
LEAST = 8
"""Digits; shorter numbers are looked for only where no other digits stand around them."""
BLACK = b"x"
READINGS: tuple[Escape | None, ...] = (None, PERCENT, JSON)
LONGEST_NUMBER = 4096
"""Bytes; no trace is longer."""
LONGEST_WRITTEN = 64
"""Characters; the reader of phone numbers takes no more."""
TAIL = 6
"""Digits at the end of a number that are the same however it is dialled."""

NO_DIGITS = bytes(set(range(256)) - set(b"0123456789"))
# Letters count as the digits that share their keys.
KEYS = bytes.maketrans(
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz", b"22233344455566677778889999" * 2
)
NO_KEYS = bytes(byte for byte in range(256) if not (byte < 128 and chr(byte).isalnum()))
LETTER_OR_DIGIT = re.compile(r"[^\W_]")


class Traces:
    """One contact's number: in E.164, and as people of its country write it."""

    def __init__(self, mobile: str) -> None:
        """`mobile` is in E.164."""
        self.mobile = mobile
        parsed = phonenumbers.parse(mobile)
        self._region = phonenumbers.region_code_for_country_code(parsed.country_code or 0)
        own = national(mobile) or mobile[1:]
        dialled = re.sub(
            "[^0-9]", "", phonenumbers.format_number(parsed, PhoneNumberFormat.NATIONAL)
        )
        written = [mobile[1:], own, *([] if own in dialled else [dialled])]
        self._spellings = re.compile(b"|".join(map(_spelling, written)))
        self._digits = [each.encode() for each in {own, written[-1]}]
        self._tails = {each[-TAIL:] for each in self._digits}

    def __repr__(self) -> str:
        return "Traces(…)"

    def within(self, data: bytes) -> bool:
        return any(self._is_in(as_ascii(each.data)) for each in _readings(data))

    def reads(self, text: str) -> bool:
        """Whether the relay would take the text, as the value of `mobile`, for the number.

        Its reader knows more spellings than can be looked for: letters for digits, say.
        """
        if not 0 < len(text) <= LONGEST_WRITTEN:
            return False
        plain = as_ascii(text.encode("utf-8", "replace"))
        return self._ends_in(plain) and phone.e164(text, self._region) == self.mobile

    def may_be_in(self, data: bytes) -> bool:
        """Whether to look closer, for one of the texts in it may hold or be the number."""
        return any(self._ends_in(as_ascii(each.data)) for each in _readings(data))

    def is_whole(self, data: bytes) -> bool:
        """Whether it is the number and nothing else."""
        text = data.decode("utf-8", "replace").strip(" '\"\t\r\n")
        bare = as_ascii(text.encode()).strip(b"+() ?").removeprefix(b"00")
        if self._spellings.fullmatch(bare):
            return True
        return not text[:1].isalpha() and self.reads(text) and not self.within(data)

    def blacked(self, data: bytes) -> bytes:
        """The same, as long as before, with every digit of the number made an x."""
        for escape in READINGS:
            if escape is None or escape.mark in data:
                data = self._blacked(data, unfolded(data, escape))
        return data

    def blacked_in(self, value: Any) -> Any:
        """The same for what JSON can hold, at any depth."""
        match value:
            case str():
                return self._blacked_text(value)
            case dict():
                return {self.blacked_in(key): self.blacked_in(each) for key, each in value.items()}
            case list():
                return [self.blacked_in(each) for each in value]
            case int() if not isinstance(value, bool) and self.within(str(value).encode()):
                return self.blacked(str(value).encode()).decode()
            case _:
                return value

    def _blacked_text(self, text: str) -> str:
        data = text.encode("utf-8", "surrogatepass")
        black = self.blacked(data).decode("utf-8", "surrogatepass")
        return LETTER_OR_DIGIT.sub(BLACK.decode(), black) if self.reads(black) else black

    def _is_in(self, plain: bytes) -> bool:
        """The digits alone are looked at first: that is twenty times as fast."""
        digits = plain.translate(None, NO_DIGITS)
        return (
            any(each in digits for each in self._digits)
            and self._spellings.search(plain) is not None
        )

    def _ends_in(self, plain: bytes) -> bool:
        digits, keys = plain.translate(None, NO_DIGITS), plain.translate(KEYS, NO_KEYS)
        return any(tail in digits or tail in keys for tail in self._tails)

    def _blacked(self, data: bytes, reading: Unfolded) -> bytes:
        plain = as_ascii(reading.data)
        if not self._is_in(plain):
            return data
        black = bytearray(data)
        for start in self._digits_in(plain):
            first, _ = reading.source(start)
            _, last = reading.source(start + width(reading.data[start]) - 1)
            black[first:last] = BLACK * (last - first)
        return bytes(black)

    def _digits_in(self, plain: bytes) -> Iterator[int]:
        """Where the digits of the number stand."""
        for found in self._spellings.finditer(plain):
            for place in range(*found.span()):
                if plain[place : place + 1].isdigit():
                    yield place


def _readings(data: bytes) -> Iterator[Unfolded]:
    for escape in READINGS:
        if escape is None or escape.mark in data:
            yield unfolded(data, escape)


def _spelling(digits: str) -> bytes:
    spelling = BETWEEN.join(each.encode() for each in digits)
    return spelling if len(digits) >= LEAST else rb"(?<![0-9])" + spelling + rb"(?![0-9])"
