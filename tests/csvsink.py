"""What the tests of the csv sink share: the sink as the loader gives it, events, and a reader."""

import logging
import sys
from datetime import UTC
from pathlib import Path

import relay
from relay.config import plugins
from relay.templating.expressions import Compiler

Csv = plugins.load([]).sinks["csv"].sink_class
package = Csv.__module__
writer_module = sys.modules[f"{package}.writer"]
erase_module = sys.modules[f"{package}.erase"]
journal_module = sys.modules[f"{package}.journal"]
rows_module = sys.modules[f"{package}.rows"]

PATH = "out/events.csv"
LOG = logging.getLogger("relay.test.csv")


def options(folder, zone=UTC, **values):
    context = {"environment": Compiler(zone), "folder": Path(folder)}
    return Csv.Options.model_validate({"path": PATH} | values, context=context)


def sink(folder, columns=None, zone=UTC, **values):
    return Csv("archive", options(folder, zone, **values), None, LOG, columns)


def event_id(number):
    return f"019ab000-0000-7000-8000-{number:012x}"


def event(number, **data):
    """The event of this number; `data` is laid over what a callback would have brought."""
    return relay.Event(
        id=event_id(number),
        source="/callbacks/sumotext",
        type="com.sumotext.poll",
        subject="12345/JOIN",
        time="2026-11-23T04:34:00.123456Z",
        data={"mobile": f"+1212555{number:04}", "country": "US", "fields": {}} | data,
    )


def delivery(number, record=None, **data):
    made = event(number, **data)
    return relay.Delivery(made.id, made, made.to_dict() if record is None else record)


def deliveries(*numbers, **data):
    return [delivery(number, **data) for number in numbers]


def delivered(outcomes):
    return [isinstance(outcome, relay.Delivered) for outcome in outcomes]


def csv_files(folder):
    """Every CSV file in the order of their names, but the one still written to at the end."""
    files = sorted(Path(folder).rglob("*.csv"), key=lambda file: file.name)
    return sorted(files, key=lambda file: file.name.count("."), reverse=True)


def rows(file):
    """The rows of one file behind its header, read strictly."""
    return strict_rows(file.read_bytes())[1:]


def ids(folder):
    """The id of each row in all files."""
    return [row[0] for file in csv_files(folder) for row in rows(file)]


class NotCsv(Exception):
    """What RFC 4180 does not allow."""


def strict_rows(data):
    """An RFC 4180 reader of its own: CRLF ends each row, quotes where they belong, equal widths."""
    text = data.decode("utf-8")
    if text.startswith("\ufeff"):
        raise NotCsv("a byte order mark")
    found, row, at = [], [], 0
    while at < len(text):
        cell, at = quoted(text, at + 1) if text[at] == '"' else plain(text, at)
        row.append(cell)
        if text.startswith("\r\n", at):
            found.append(row)
            row, at = [], at + 2
            continue
        if not text.startswith(",", at):
            raise NotCsv(f"no comma and no CRLF at {at}")
        at += 1
        if at == len(text):
            raise NotCsv("the last row is cut off")
    if row:
        raise NotCsv("the last row is cut off")
    if len({len(each) for each in found}) > 1:
        raise NotCsv("rows of different widths")
    return found


def plain(text, at):
    start = at
    while at < len(text) and text[at] not in ",\r\n":
        if text[at] == '"':
            raise NotCsv(f"a quote in a plain cell at {at}")
        at += 1
    return text[start:at], at


def quoted(text, at):
    cell = []
    while True:
        end = text.find('"', at)
        if end < 0:
            raise NotCsv("an open quote at the end")
        cell.append(text[at:end])
        if not text.startswith('""', end):
            return "".join(cell), end + 1
        cell.append('"')
        at = end + 2
