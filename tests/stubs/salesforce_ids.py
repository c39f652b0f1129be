"""Record ids as Salesforce makes them: fifteen characters, and three for who ignores capitals."""

import string

DIGITS = string.digits + string.ascii_uppercase + string.ascii_lowercase


def new_id(prefix: str, number: int) -> str:
    digits = ""
    while number:
        number, digit = divmod(number, 62)
        digits = DIGITS[digit] + digits
    return _with_suffix(prefix + "Hs000" + digits.rjust(7, "0"))


def full_id(text: str) -> str | None:
    """The form with 18 characters of either form; None for what is no id."""
    if not (text.isascii() and text.isalnum()) or len(text) not in {15, 18}:
        return None
    known = _with_suffix(text[:15])
    return known if known.startswith(text) else None


def _with_suffix(short: str) -> str:
    """Three characters that say which of the fifteen are capitals."""
    suffix = ""
    for start in (0, 5, 10):
        capitals = [letter in string.ascii_uppercase for letter in short[start : start + 5]]
        suffix += (string.ascii_uppercase + "012345")[sum(c << i for i, c in enumerate(capitals))]
    return short + suffix
