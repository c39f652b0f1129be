"""A delivery as a row of bytes (RFC 4180, UTF-8), with formulas defused.

A spreadsheet splits a file at the separators that its user chose, which need not be the comma. So
a formula may begin at the start of a cell, and behind every separator inside a cell.
"""

import csv
import io
import json
import re
from collections.abc import Iterable
from operator import attrgetter
from typing import Any

import relay

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

    `end` is at both ends of the text, and begins another cell.
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
    # One of a list of numbers: the same separator is at both of its ends.
    alone = {",": ", ", ";": "; ", "\r": "\r\n", "\n": "\r\n"}.get(behind, behind)
    return behind not in {"", end} and not set(alone).issuperset(before)


ATTRIBUTES = ("id", "time", "type", "source", "subject")
DATA = (
    "mobile",
    "country",
    "short_code",
    "keyword",
    "carrier",
    "message",
    "message_id",
    "reply",
    "label",
    "consent",
    "fields",
)

attributes = attrgetter(*ATTRIBUTES)
as_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode

SURROGATE = re.compile("[\ud800-\udfff]")


class RowFormat:
    """The columns of a CSV file: the event's id, then those of `map`, or else the default set.

    With `defused`, no cell is a formula to a spreadsheet, and every text is in quotes.
    """

    def __init__(self, columns: tuple[str, ...] | None, *, defused: bool) -> None:
        self._columns = columns
        self._defused = defused
        names = [self._cell(name) for name in self._names()]
        self.header = self._encoded(names)
        self._headers = (_encoded(_quoted(names)), _encoded(_plain(names)))

    def row(self, delivery: relay.Delivery) -> bytes:
        """The delivery's line, CRLF included."""
        return self._encoded([self._cell(value) for value in self._values(delivery)])

    def header_in(self, beginning: bytes) -> int:
        """How many bytes of a file's beginning are these columns' header; 0 if they are none.

        Quotes make no difference: an earlier release wrote none, and `mode` may have changed.
        """
        return next((len(each) for each in self._headers if beginning.startswith(each)), 0)

    @property
    def longest_header(self) -> int:
        return max(map(len, self._headers))

    def _names(self) -> list[str]:
        if self._columns is None:
            return [*ATTRIBUTES, *DATA]
        return ["event_id" if "id" in self._columns else "id", *self._columns]

    def _values(self, delivery: relay.Delivery) -> list[Any]:
        if self._columns is not None:
            record = delivery.record or {}
            return [delivery.id, *map(record.get, self._columns)]
        event = delivery.event
        return [*attributes(event), *map(_data_of(event).get, DATA)]

    def _cell(self, value: Any) -> str | None:
        if value is None:
            return None
        if isinstance(value, str):
            return defused(value) if self._defused else value
        try:
            json = as_json(value)
        except (TypeError, ValueError):
            return self._cell(str(value))
        return defused_json(json) if self._defused else json

    def _encoded(self, cells: list[str | None]) -> bytes:
        return _encoded(_quoted(cells) if self._defused else _plain(cells))


def _data_of(event: relay.Event) -> dict[str, Any]:
    """The event's `data` under the names of the columns.

    Another vendor's data may have none of them. Its attributes take the place of those that they
    are to the relay, and the rest stands in `fields`. `parameters` repeats what the others say.
    """
    data = {
        "mobile": event.contact,
        "keyword": event.topic,
        "message_id": event.dedup_key,
        "consent": event.consent,
        **event.data,
    }
    known = {*DATA, "parameters"} if "fields" in data else DATA
    rest = {name: value for name, value in data.items() if name not in known}
    if rest:
        data["fields"] = {**rest, "fields": data["fields"]} if "fields" in data else rest
    return data


def _quoted(cells: Iterable[str | None]) -> str:
    """The line with every cell in quotes but those without a value."""
    doubled = ("" if cell is None else '"' + cell.replace('"', '""') + '"' for cell in cells)
    return ",".join(doubled) + "\r\n"


def _plain(cells: Iterable[str | None]) -> str:
    """The line with quotes only where RFC 4180 asks for them."""
    line = io.StringIO(newline="")
    csv.writer(line).writerow(cells)
    return line.getvalue()


def _encoded(line: str) -> bytes:
    # A NUL ends the text for many readers, so it goes the way of what UTF-8 cannot say.
    line = line.replace("\0", "\ufffd")
    try:
        return line.encode()
    except UnicodeEncodeError:
        return SURROGATE.sub("\ufffd", line).encode()
