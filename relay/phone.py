"""Phone numbers in E.164, and the country that a number belongs to."""

from functools import lru_cache

import phonenumbers
from phonenumbers import (
    NumberParseException,
    PhoneNumber,
    PhoneNumberFormat,
    ValidationResult,
)

# The North American numbering plan: calling code 1, ten digits, the first of them 2 to 9.
_NANP = 1
_NANP_LENGTH = 10
_LONGEST = 64


def e164(number: str, region: str) -> str | None:
    """The number as +12125551212; None where no such number can exist.

    `region` is the country (alpha-2) that a number without `+` belongs to.
    """
    if is_plain_nanp(number) and _calling_code(region) == _NANP:
        return "+1" + number
    if len(number) > _LONGEST:
        return None
    if number.startswith(" "):
        # A `+` that nobody escaped arrives as a space.
        international = _parse("+" + number[1:], region, valid=True)
        if international:
            return international
    return _parse(number, region)


def is_plain_nanp(number: str) -> bool:
    """Ten plain digits that need no parsing, which costs more than the rest of a callback."""
    return len(number) == _NANP_LENGTH and number.isascii() and number.isdigit() and number[0] > "1"


def country(number: str, region: str) -> str | None:
    """The alpha-2 code of an E.164 number's own country.

    Where the number does not tell, it is `region`, unless that has another calling code.
    """
    if number.startswith("+1") and is_plain_nanp(number[2:]):
        own = _prefixes.country(number[2:8])
    else:
        own = _country(number)
    return own or (region if number.startswith(f"+{_calling_code(region) or None}") else None)


@lru_cache(maxsize=512)
def _calling_code(region: str) -> int:
    return phonenumbers.country_code_for_region(region)


@lru_cache(maxsize=4096)
def _parse(number: str, region: str, *, valid: bool = False) -> str | None:
    try:
        parsed = phonenumbers.parse(number, region)
    except NumberParseException:
        return None
    possible = phonenumbers.is_possible_number_with_reason(parsed)
    if possible != ValidationResult.IS_POSSIBLE:
        return None
    if valid and not phonenumbers.is_valid_number(parsed):
        return None
    return phonenumbers.format_number(parsed, PhoneNumberFormat.E164)


class _Prefixes:
    """The countries of calling code 1, where the first six digits decide.

    All prefixes take a byte each: a campaign that reaches a whole continent would drive any cache
    of the usual kind round in circles.
    """

    def __init__(self) -> None:
        self._numbers = bytearray(10**6)
        """prefix -> which of the countries; 0 until it is looked up"""
        self._countries: list[str | None] = [""]

    def country(self, prefix: str) -> str | None:
        return self._countries[self._numbers[int(prefix)] or self._look_up(int(prefix))]

    def _look_up(self, prefix: int) -> int:
        country = _known(PhoneNumber(_NANP, prefix * 10_000 + 2222))
        if country not in self._countries:
            self._countries.append(country)
        self._numbers[prefix] = self._countries.index(country)
        return self._numbers[prefix]


_prefixes = _Prefixes()


@lru_cache(maxsize=4096)
def _country(number: str) -> str | None:
    return _known(phonenumbers.parse(number))


def _known(number: PhoneNumber) -> str | None:
    region = phonenumbers.region_code_for_number(number)
    return region if region and region.isalpha() else None
