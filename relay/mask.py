"""Numbers of contacts as people may see them: the last four digits."""

import re
from typing import Any

from relay.templates.helpers import national

SHOWN = 4
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
BETWEEN = r"""
    (?: [^\S\n] | [()./_~+·‐-―-]
      | %(?!3\d|26|3D|2C)[0-9a-f]{2}
      | \\(?:[nrt]|x[0-9a-f]{2}|u[0-9a-f]{4})
    ){0,4}
"""
# Seven digits are the shortest number of almost anybody, fifteen the longest. Digits with a letter
# beside them are part of something else, unless it begins an extension.
NUMBER = rf"\+?\d(?:{BETWEEN}\d){{6,14}}(?=[\W_]|x\d|ext|\Z)"
BEFORE = r"(?:(?<![^\W_])|(?<=%[0-9a-f]{2})|(?<=\\[nrt])|(?<=\\x[0-9a-f]{2})|(?<=\\u[0-9a-f]{4}))"
FOREIGN = re.compile(
    rf"{BEFORE}(?:(?P<whole>(?:{WHOLE})(?![^\W_]))|(?P<number>{NUMBER}))",
    re.VERBOSE | re.IGNORECASE,
)


def mask(number: str) -> str:
    """`+12125551212` as `…1212`."""
    return "…" + number[-SHOWN:]


def mask_all(text: str) -> str:
    """The text with whatever may be a number masked; for words that others chose.

    An order's number is masked, too: better that than a contact's in a log.
    """
    return mask_e164(FOREIGN.sub(lambda found: found["whole"] or mask(found["number"]), text))


def mask_e164(text: str) -> str:
    """The text with the numbers masked that stand in it as events have them; ids stay whole."""
    return E164.sub(lambda found: mask(found[0]), text)


def mask_in(value: Any, number: str) -> Any:
    """`value`, and all that is in it, with this E.164 number masked however it is written."""
    spellings = (SEPARATORS.join(digits) for digits in (number[1:], national(number) or number))
    return _replaced(value, re.compile(rf"\+?(?:{'|'.join(spellings)})"), mask(number))


def _replaced(value: Any, pattern: re.Pattern[str], by: str) -> Any:
    match value:
        case str():
            return pattern.sub(by, value)
        case dict():
            return {key: _replaced(item, pattern, by) for key, item in value.items()}
        case list() | tuple():
            return [_replaced(item, pattern, by) for item in value]
        case int() if pattern.fullmatch(str(value)):
            return by
        case _:
            return value
