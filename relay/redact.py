"""Numbers of contacts in texts and bytes: masked for people, found and blacked out for an erasure.

`mask…` and `without` are for what people read: of a number the last four digits stay. A
`NumberMatcher` finds one contact's number in bytes. It reads them in each way in which the relay
reads callbacks: as they are, with their percent-encoding undone, and with the escapes of JSON
undone. The digits of every script count, and so do the marks that people put between digits.
"""

import re
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import cache, partial
from itertools import takewhile
from typing import Any

import phonenumbers
from phonenumbers import PhoneNumberFormat

from relay import phone
from relay.escapes import JSON, PERCENT, Escape, Unfolded, unfolded

SHOWN = 4
LONGEST_WORDS = 2048
"""Characters of others' words that are looked at."""
HEAD = 100
"""Characters by which a long value is found; its other end may have been cut off."""
MOST_VALUES = 500
SEPARATORS = r"[\s().\-]*"
E164 = re.compile(r"\+[1-9]\d{6,14}(?!\d)")

# What looks like a number and is none, or hardly ever: an id, a day and its time, a month, a time,
# an address, a fraction, a size, a short while.
OCTET = r"(?:25[0-5]|2[0-4]\d|1?\d?\d)"
WHOLE = rf"""
    [0-9a-f]{{8}}-(?:[0-9a-f]{{4}}-){{3}}[0-9a-f]{{12}}
  | (?:19|20)\d\d(?P<mark>[-/.])\d\d(?P=mark)\d\d(?:[T ]\d\d:\d\d[\d:.,]*Z?)?
  | (?:19|20)\d\d-(?:0[1-9]|1[0-2])(?!-?\d)
  | \d\d?:\d\d(?::\d\d)?(?:[.,]\d+)?
  | (?:{OCTET}\.){{3}}{OCTET}(?!\.\d)
  | 0\.\d+(?!\.\d)
  | \d+[ ]bytes
  | \d{{1,9}}[ ][mnuµ]s
"""
# Between two digits: blanks and marks, also as a URL or Python's repr writes them; but not what
# parts one value from the next.
_GAP = r"""
    (?: [^\S\n] | [()./_~+·‐-―-]
      | %(?!3\d|26|3D|2C)[0-9a-f]{2}
      | \\(?:[nrt]|x[0-9a-f]{2}|u[0-9a-f]{4})
    ){0,4}
"""
# Seven digits are the shortest number of almost anybody, fifteen the longest. Digits with a letter
# beside them are part of something else, unless it begins an extension.
NUMBER = rf"\+?\d(?:{_GAP}\d){{6,14}}(?=[\W_]|x\d|ext|\Z)"
BEFORE = r"(?:(?<![^\W_])|(?<=%[0-9a-f]{2})|(?<=\\[nrt])|(?<=\\x[0-9a-f]{2})|(?<=\\u[0-9a-f]{4}))"
FOREIGN = re.compile(
    rf"{BEFORE}(?:(?P<whole>(?:{WHOLE})(?![^\W_]))|(?P<number>{NUMBER}))",
    re.VERBOSE | re.IGNORECASE,
)


def mask(number: str) -> str:
    """`+12125551212` as `…1212`."""
    return "…" + number[-SHOWN:]


def mask_contact(contact: str | None) -> str | None:
    """A contact as people may see it: of a number the end, of an e-mail address the domain."""
    if contact is None:
        return None
    name, at, domain = contact.rpartition("@")
    return f"{name[:1]}…@{domain}" if at else mask(contact)


def mask_all(text: str) -> str:
    """The text with whatever may be a number masked; for words that others chose.

    An order's number is masked, too: better that than a contact's in a log.
    """
    return mask_e164(FOREIGN.sub(lambda found: found["whole"] or mask(found["number"]), text))


def mask_e164(text: str) -> str:
    """The text with its E.164 numbers masked; ids stay whole."""
    return E164.sub(lambda found: mask(found[0]), text)


def without(words: str, values: Iterable[str], *, whole: bool = False) -> str:
    """Others' words about a record, cut, without the values that they quote of it.

    Case does not count. With `whole`, a value inside a longer word stays. Nothing is left where
    there are too many values to look for.
    """
    cut = words[:LONGEST_WORDS]
    sought = sorted(set(values), key=len, reverse=True)
    if len(sought) > MOST_VALUES:
        return "…"
    folded = _folded(cut)
    for value in sought:
        if _folded(value[:HEAD]) in folded:
            cut = _without(cut, value, whole=whole)
            folded = _folded(cut)
    return cut if len(words) <= LONGEST_WORDS else cut[:-HEAD]


def _without(words: str, value: str, *, whole: bool) -> str:
    folded, head = _folded(words), _folded(value[:HEAD])
    rest = _folded(value[HEAD : HEAD + len(words)])
    pieces, start, at = [], 0, folded.find(head)
    while at >= 0:
        end = at + len(head)
        same = takewhile(lambda pair: pair[0] == pair[1], zip(folded[end:], rest, strict=False))
        end += sum(1 for _ in same)
        if whole and (_is_word(words[at - 1 : at]) or _is_word(words[end : end + 1])):
            at = folded.find(head, at + 1)
            continue
        pieces += [words[start:at], "…"]
        start, at = end, folded.find(head, end)
    return "".join((*pieces, words[start:]))


def _folded(text: str) -> str:
    """In lower case, with as many characters as before."""
    lower = text.lower()
    if len(lower) == len(text):
        return lower
    return "".join(low if len(low := char.lower()) == 1 else char for char in text)


def _is_word(char: str) -> bool:
    return char.isalnum() or char == "_"


def mask_in(value: Any, contact: str | None) -> Any:
    """`value`, and all that is in it, with the contact masked; a number however it is written.

    Of an event without a contact that is a number, whatever may be a number is masked.
    """
    if contact is None:
        return _changed(value, mask_all)
    masked = partial(_spelt(contact).sub, lambda _: str(mask_contact(contact)))
    if E164.fullmatch(contact):
        return _changed(value, masked)
    return _changed(value, lambda text: mask_all(masked(text)))


def _spelt(contact: str) -> re.Pattern[str]:
    """Matches an E.164 number however it is written, and another contact in upper or lower case."""
    if not E164.fullmatch(contact):
        return re.compile(re.escape(contact), re.IGNORECASE)
    spellings = (
        SEPARATORS.join(digits) for digits in (contact[1:], phone.national(contact) or contact)
    )
    return re.compile(rf"\+?(?:{'|'.join(spellings)})")


def _changed(value: Any, change: Callable[[str], str]) -> Any:
    match value:
        case str():
            return change(value)
        case dict():
            return {key: _changed(item, change) for key, item in value.items()}
        case list() | tuple():
            return [_changed(item, change) for item in value]
        case int() if (text := change(str(value))) != str(value):
            return text
        case _:
            return value


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


# Between two digits: whatever is no ASCII digit or letter and no `"`, `&` or `=`, which part one
# value from the next; and one x, as the reader of phone numbers has it. A number that is blacked
# out is more of them. There is one way to read any bytes: with two, a search could take hours.
MARKS = rb'[^0-9A-Za-z"&=]{0,16}+'
BETWEEN = MARKS + rb"(?:[xX]" + MARKS + rb")?+"
LEAST = 8
"""Digits; shorter numbers are matched only where no other digits are around them."""
BLACK = b"x"
READINGS: tuple[Escape | None, ...] = (None, PERCENT, JSON)
LONGEST_NUMBER = 4096
"""Bytes; no spelling of a number is longer."""
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


class NumberMatcher:
    """Finds one contact's number: in E.164, and as people of its country write it."""

    def __init__(self, mobile: str) -> None:
        """`mobile` is in E.164."""
        self.mobile = mobile
        parsed = phonenumbers.parse(mobile)
        self._region = phonenumbers.region_code_for_country_code(parsed.country_code or 0)
        own = phone.national(mobile) or mobile[1:]
        dialled = re.sub(
            "[^0-9]", "", phonenumbers.format_number(parsed, PhoneNumberFormat.NATIONAL)
        )
        written = [mobile[1:], own, *([] if own in dialled else [dialled])]
        self._spellings = re.compile(b"|".join(map(_spelling, written)))
        self._digits = [each.encode() for each in {own, written[-1]}]
        self._tails = {each[-TAIL:] for each in self._digits}

    def __repr__(self) -> str:
        return "NumberMatcher(…)"

    def within(self, data: bytes) -> bool:
        return any(self._is_in(as_ascii(each.data)) for each in _readings(data))

    def reads(self, text: str) -> bool:
        """Whether the relay would take the text, as the value of `mobile`, for the number.

        Normalisation accepts more spellings than can be matched, such as letters for digits.
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
        """The positions of the digits of the number."""
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
