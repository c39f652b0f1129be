"""Output: tables and progress bars for people, JSON for programs."""

import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, tzinfo
from typing import TYPE_CHECKING, Any

import click
import orjson
from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from relay.cli import load
from relay.fsutil import json_with_paths

if TYPE_CHECKING:
    from rich.progress import Progress

# What is read by a program or kept in a file is not broken to the width of a terminal.
WIDE = 240
# Where a table is too wide, its last column may be broken into lines if it is one of these, and has
# so much room. What else does not fit is printed below the row.
TEXTS = frozenset({"Answer", "Error", "Error or reference", "Reason", "Says", "Value"})
ROOM = 24
GAP = 3
BEYOND_ASCII = re.compile(r"[^\n -~]")


def print_json(value: Any) -> None:
    """One array or object."""
    click.echo(
        _safe(orjson.dumps(orjson.loads(json_with_paths(value)), option=orjson.OPT_INDENT_2))
    )


def print_json_line(value: Any) -> None:
    """One of many objects, on one line."""
    click.echo(_safe(json_with_paths(value)))


def _safe(text: bytes) -> str:
    """JSON in which characters are escaped that a terminal does not show, or acts upon.

    To a program it says the same: JSON is UTF-8, and pure ASCII where the locale is another.
    """
    return BEYOND_ASCII.sub(_escaped, text.decode())


def _escaped(found: re.Match[str]) -> str:
    is_utf8 = (sys.stdout.encoding or "utf-8").lower().replace("-", "") == "utf8"
    return found[0] if is_utf8 and found[0].isprintable() else json.dumps(found[0])[1:-1]


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Rows under headings. Numbers stand to the right."""
    console = Console(width=None if sys.stdout.isatty() else WIDE, highlight=False)
    content = [[_cell(value) for value in row] for row in rows]
    widths = [max(map(cell_len, map(str, cells))) for cells in zip(columns, *content, strict=True)]
    beside = _that_fit(columns, widths, console.width)
    if beside == len(columns):
        console.print(_table(columns, content, widths))
        return
    for number, row in enumerate(content):
        table = _table(columns[:beside], [row[:beside]], widths[:beside])
        table.show_header, table.show_edge = number == 0, False
        console.print(table)
        for name, cell in zip(columns[beside:], row[beside:], strict=True):
            if cell:
                console.print(f"   {name}: {cell}", markup=False, soft_wrap=True)
    console.print()


def _that_fit(columns: Sequence[str], widths: Sequence[int], width: int) -> int:
    """How many columns there is room for, side by side."""
    number = len(columns)
    while number > 1:
        last = widths[number - 1]
        if columns[number - 1] in TEXTS:
            last = min(last, ROOM)
        if sum(widths[: number - 1]) + last + GAP * (number - 1) + 2 <= width:
            break
        number -= 1
    return number


def _table(columns: Sequence[str], rows: Iterable[Sequence[Text]], widths: Sequence[int]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading, width in zip(columns[:-1], widths, strict=False):
        table.add_column(heading, no_wrap=True, width=width)
    table.add_column(columns[-1], overflow="fold", min_width=min(widths[-1], ROOM))
    for cells in rows:
        table.add_row(*cells)
    return table


def print_pairs(pairs: Iterable[tuple[str, Any]]) -> None:
    """Names and values, one a line; what is null is left out."""
    known = [(name, value) for name, value in pairs if value is not None]
    width = max((len(name) for name, _ in known), default=0)
    for name, value in known:
        click.echo(f"{name:<{width}}  {printable(str(value))}")


def progress(total: float | None, what: str, *, shown: bool = True) -> "Progress":
    """A bar on standard error, to be used in a `with`; nothing where that is no terminal."""
    parts = load("rich.progress")
    bar: Progress = parts.Progress(
        parts.TextColumn("{task.description}"),
        parts.BarColumn(),
        *([] if total is None else [parts.MofNCompleteColumn()]),
        console=Console(stderr=True),
        disable=not (shown and sys.stderr.isatty()),
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
    if reason is None and (failed := sink.get("last_error")):
        since = local_time(failed["since"], zone)
        return f"{count(failed['attempts'], 'failed attempt')} since {since}: {failed['error']}"
    if reason and "since" in sink:
        return f"since {local_time(sink['since'], zone)}: {reason}"
    return reason


def count(number: int, thing: str) -> str:
    """`1 event`, `2 events`."""
    plural = f"{thing[:-1]}ies" if thing.endswith("y") else f"{thing}s"
    return f"{number:,} {thing if number == 1 else plural}"


def _cell(value: Any) -> Text:
    if isinstance(value, int):
        return Text(f"{value:,}", justify="right")
    return Text(printable("" if value is None else str(value)))
