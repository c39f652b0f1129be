"""The table: how a delivery becomes a row of bytes (RFC 4180, UTF-8)."""

import csv
import json
import re
from operator import attrgetter
from types import SimpleNamespace
from typing import Any

import relay

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
PLAIN_NUMBER = re.compile(r"\+[1-9][0-9]{6,14}")
# What a spreadsheet may take for a formula: one of = + - @, their full-width and small forms
# and the minus sign, also behind characters that it drops or shows as nothing; and cells that
# begin with TAB, CR or LF.
FORMULA = re.compile(
    r"[\t\r\n]"
    r"|[\s\x00-\x1f\x7f-\x9f\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff]*"
    r"[=+\-@\uff1d\uff0b\uff0d\uff20\ufe66\ufe62\ufe63\ufe6b\u2212]"
)


class Table:
    """The columns of a CSV file: the event's id, then those of `map`, or else the default set.

    With `defused`, no cell is a formula to a spreadsheet.
    """

    def __init__(self, columns: tuple[str, ...] | None, *, defused: bool) -> None:
        self._columns = columns
        self._defused = defused
        self._lines: list[str] = []
        self._writer = csv.writer(SimpleNamespace(write=self._lines.append))
        self.header = self._encode(self._names())

    def row(self, delivery: relay.Delivery) -> bytes:
        """The delivery's line, CRLF included."""
        return self._encode(self._values(delivery))

    def _names(self) -> list[str]:
        if self._columns is None:
            return [*ATTRIBUTES, *DATA]
        return ["event_id" if "id" in self._columns else "id", *self._columns]

    def _values(self, delivery: relay.Delivery) -> list[Any]:
        if self._columns is not None:
            return [delivery.id, *map(delivery.record.get, self._columns)]
        event = delivery.event
        return [*attributes(event), *map(event.data.get, DATA)]

    def _encode(self, values: list[Any]) -> bytes:
        cells = [value if isinstance(value, str) else text(value) for value in values]
        if self._defused:
            cells = [f"'{cell}" if cell and is_formula(cell) else cell for cell in cells]
        self._lines.clear()
        self._writer.writerow(cells)
        # A NUL ends the text for many readers, so it goes the way of what UTF-8 cannot say.
        line = self._lines[0].replace("\0", "\ufffd")
        try:
            return line.encode()
        except UnicodeEncodeError:
            return SURROGATE.sub("\ufffd", line).encode()


def text(value: Any) -> str:
    """A value that is no text: nothing for None, else JSON where it can be said in it."""
    if value is None:
        return ""
    try:
        return as_json(value)
    except (TypeError, ValueError):
        return str(value)


def is_formula(cell: str) -> bool:
    """Whether a spreadsheet might run the cell. A plain E.164 number is none."""
    return FORMULA.match(cell) is not None and PLAIN_NUMBER.fullmatch(cell) is None
