"""What is a contact's, as others may see it: of a number the last four digits, of texts nothing."""

import re
from collections.abc import Iterable
from itertools import takewhile
from typing import Any

from relay.phone import national

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


def mask_all(text: str) -> str:
    """The text with whatever may be a number masked; for words that others chose.

    An order's number is masked, too: better that than a contact's in a log.
    """
    return mask_e164(FOREIGN.sub(lambda found: found["whole"] or mask(found["number"]), text))


def mask_e164(text: str) -> str:
    """The text with the numbers masked that stand in it as events have them; ids stay whole."""
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
