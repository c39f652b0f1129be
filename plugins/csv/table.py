"""The table: how a delivery becomes a row of bytes (RFC 4180, UTF-8)."""

import csv
import io
import json
import re
from collections.abc import Iterable
from operator import attrgetter
from typing import Any

import relay

from .formulas import defused, defused_json

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


class Table:
    """The columns of a CSV file: the event's id, then those of `map`, or else the default set.

    With `defused`, no cell is a formula to a spreadsheet, and every text stands in quotes.
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
            return [delivery.id, *map(delivery.record.get, self._columns)]
        event = delivery.event
        return [*attributes(event), *map(event.data.get, DATA)]

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
