"""Output: tables and progress bars for people, JSON for programs."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, tzinfo
from typing import Any

import click
import orjson
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

# What is read by a program or kept in a file is not broken to the width of a terminal.
WIDE = 240
# What one copies into the next command stays on one line.
IDS = frozenset({"Id", "Event"})


def print_json(value: Any) -> None:
    """One array or object."""
    click.echo(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode())


def print_json_line(value: Any) -> None:
    """One of many objects, on one line."""
    click.echo(orjson.dumps(value).decode())


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Rows under headings. Numbers stand to the right."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    content = [[_cell(value) for value in row] for row in rows]
    for heading in columns:
        table.add_column(heading, overflow="fold", no_wrap=heading in IDS)
    for cells in content:
        table.add_row(*cells)
    Console(width=None if sys.stdout.isatty() else WIDE).print(table)


def print_pairs(pairs: Iterable[tuple[str, Any]]) -> None:
    """Names and values, one a line; what is null is left out."""
    known = [(name, value) for name, value in pairs if value is not None]
    width = max((len(name) for name, _ in known), default=0)
    for name, value in known:
        click.echo(f"{name:<{width}}  {printable(str(value))}")


def progress(total: float | None, what: str) -> Progress:
    """A bar on standard error, to be used in a `with`; nothing where that is no terminal."""
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
        transient=True,
    )
    bar.add_task(what, total=total)
    return bar


def printable(text: str) -> str:
    """The text without what would move a terminal's cursor: callbacks bring anything."""
    return "".join(char if char.isprintable() or char == "\n" else "�" for char in text)


def local_time(written: str | None, zone: tzinfo) -> str:
    """RFC 3339 text as a time of the configured zone, to the second."""
    if written is None:
        return ""
    return f"{datetime.fromisoformat(written).astimezone(zone):%Y-%m-%d %H:%M:%S}"


def reason_of(sink: Mapping[str, Any], zone: tzinfo) -> str | None:
    """Why a sink does not take all, and until when, where nobody has to do anything."""
    reason: str | None = sink.get("reason")
    if reason and sink["state"] == "running":
        return f"{reason}, until {local_time(sink.get('until'), zone)}"
    return reason


def kind_of(event_type: str) -> str:
    """`com.sumotext.poll` as `poll`."""
    return event_type.rpartition(".")[2]


def count(number: int, thing: str) -> str:
    """`1 event`, `2 events`."""
    plural = f"{thing[:-1]}ies" if thing.endswith("y") else f"{thing}s"
    return f"{number:,} {thing if number == 1 else plural}"


def _cell(value: Any) -> Text:
    if isinstance(value, int):
        return Text(f"{value:,}", justify="right")
    return Text(printable("" if value is None else str(value)))
