"""Formulas: what a spreadsheet may run, and how a cell is written so that it does not.

A spreadsheet splits a file at the separators that its user chose, which need not be the comma. So
a formula may begin at the start of a cell, and behind every separator inside a cell.
"""

import re

# What a spreadsheet may take for the beginning of a formula: one of = + - @, their full-width and
# small forms, and the minus sign.
_SIGN = "[=+\\-@\uff1d\uff0b\uff0d\uff20\ufe66\ufe62\ufe63\ufe6b\u2212]"
# What it drops, or shows as nothing, in front of a formula.
_UNSEEN = (
    r"\s\x00-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180e\u200b-\u200f"
    r"\u2028-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb\U000e0000-\U000e0fff"
)
# The separators of spreadsheets, and all that ends a line. A quote may follow them.
_SEPARATORS = ",;|:\t\n\x0b\x0c\r\x1c-\x1e\x85\u2028\u2029"
_BEFORE = rf'[{_UNSEEN}{_SEPARATORS}"]'

SIGN = re.compile(_SIGN)
AT_START = re.compile(rf"[\t\r\n]|[{_UNSEEN}]*+{_SIGN}")
# Each run of characters in front of a sign is looked at once, however long it is.
WITHIN = re.compile(rf"(?<!{_BEFORE})({_BEFORE}++)({_SIGN})")
PLAIN_NUMBER = re.compile(r"\+[1-9][0-9]{6,14}")
SEPARATOR = re.compile(f"[{_SEPARATORS}]")
SMILEY = re.compile(rf"{_SIGN}++\)")
# What is common behind a space, and no formula where a spreadsheet splits at spaces. A sign at the
# end of a cell may be one, with the next cell: `="` and `","&A1"` follow each other.
NO_FORMULA = re.compile(rf'{_SIGN}++[ )]|[+-][0-9][0-9.,]*+(?=[ ;?)"]|\Z)')
JSON_STRING = re.compile(r'"(?:[^"\\]|\\.)*+"')


def defused(text: str) -> str:
    """The text with an apostrophe wherever a formula could begin.

    A plain E.164 number is no formula.
    """
    if not SIGN.search(text) and not text.startswith(("\t", "\r", "\n")):
        return text
    within = WITHIN.sub(lambda found: f"{found[1]}'{found[2]}" if _runs(found) else found[0], text)
    return f"'{within}" if _runs_at_start(text) else within


def defused_json(text: str) -> str:
    """JSON that means the same, with an escape for each sign with which a formula could begin.

    Negative numbers outside of strings stay: they are no formulas.
    """
    if not SIGN.search(text):
        return text
    if not text.startswith(("{", "[")):
        return defused(text)
    return JSON_STRING.sub(lambda string: _escaped(string[0]), text)


def _escaped(string: str) -> str:
    """A JSON string, quotes included, without a sign that begins a formula."""
    return WITHIN.sub(
        lambda found: f"{found[1]}\\u{ord(found[2]):04x}" if _runs(found, '"') else found[0],
        string,
    )


def _runs_at_start(text: str) -> bool:
    return AT_START.match(text) is not None and PLAIN_NUMBER.fullmatch(text) is None


def _runs(found: re.Match[str], end: str = "") -> bool:
    """Whether a spreadsheet might run what begins with the sign.

    `end` is what stands at both ends of the text, and begins a cell of its own.
    """
    text, before, sign = found.string, found[1], found.start(2)
    separators = SEPARATOR.findall(before) or ([end] if end and not found.start() else [])
    if not separators:
        return " " in before and NO_FORMULA.match(text, sign) is None
    if set(separators) == {":"} and SMILEY.match(text, sign):
        return False
    number = PLAIN_NUMBER.match(text, sign)
    if number is None:
        return True
    behind = text[number.end() : number.end() + 1]
    # One of a list of numbers: the same separator stands at both of its ends.
    alone = {",": ", ", ";": "; ", "\r": "\r\n", "\n": "\r\n"}.get(behind, behind)
    return behind not in {"", end} and not set(alone).issuperset(before)
