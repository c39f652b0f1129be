"""Moving many rows in one step.

Each step of a statement lets go of Python's lock and has to win it back from a busy event loop,
so rows come and go by the hundred: as one JSON array, or as one statement of many rows.

Statements that look for deliveries in a state name the index: the planner has no statistics of how
few those are, and would go through all deliveries of the sink.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import apsw
import orjson

from relay.event import CONSENT_PATHS, TYPE_PREFIX

SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
LARGEST = SIZES[-1]

CONSENT = (
    f"ifnull(json_extract(event, '{CONSENT_PATHS[0]}'),"
    f" iif(json_extract(event, '$.type') GLOB '{TYPE_PREFIX}*',"
    f" json_extract(event, '{CONSENT_PATHS[1]}'), NULL))"
)
"""SQL for the `consent` of an event in the table `events`, as Event.from_json reads it."""


def value(connection: apsw.Connection, sql: str, bindings: Sequence[Any] = ()) -> Any:
    """The first value of the first row; None without one."""
    return connection.execute(sql, bindings).get


def every(connection: apsw.Connection, sql: str, bindings: Sequence[Any] = ()) -> list[Any]:
    """All rows, as tuples; the way for few rows, and for statements that change some."""
    return connection.execute(sql, bindings).fetchall()


def fetch(
    connection: apsw.Connection, columns: str, rest: str, bindings: Sequence[Any]
) -> list[Any]:
    """The rows of `SELECT columns rest` as lists, in the order of the query."""
    sql = f"SELECT json_group_array(json_array({columns})) FROM (SELECT * {rest})"
    found: list[Any] = orjson.loads(value(connection, sql, bindings))
    return found


def array(values: Sequence[Any]) -> str:
    """The values as text for `json_each`."""
    return orjson.dumps(values).decode()


def among(
    connection: apsw.Connection, sql: str, bindings: Sequence[Any], wanted: Sequence[Any]
) -> list[Any]:
    """The rows of a statement that ends in `IN`, for these values (none of them null)."""
    found: list[Any] = []
    for chunk in _chunks(wanted):
        size = _size(len(chunk))
        values = [*bindings, *chunk, *[None] * (size - len(chunk))]
        found += every(connection, f"{sql} ({', '.join('?' * size)})", values)
    return found


def there(connection: apsw.Connection, sql: str, wanted: Sequence[Sequence[Any]]) -> list[Any]:
    """The rows of a statement about `{rows}`, a table of what is wanted.

    Rows of nulls fill it up.
    """
    found: list[Any] = []
    for chunk in _chunks(wanted):
        size, width = _size(len(chunk)), len(chunk[0])
        values = [each for row in chunk for each in row]
        values += [None] * (size * width - len(values))
        found += every(connection, sql.format(rows=f"({_values(width, size)})"), values)
    return found


def insert(connection: apsw.Connection, table: str, rows: Sequence[Sequence[Any]]) -> None:
    """Insert the rows, each with a value for every column; the first must not be null."""
    for chunk in _chunks(rows):
        columns, size = len(chunk[0]), _size(len(chunk))
        values = [each for row in chunk for each in row]
        values += [None] * (size * columns - len(values))
        connection.execute(_insertion(table, columns, size), values)


def _chunks(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(values), LARGEST):
        yield values[start : start + LARGEST]


def _size(least: int) -> int:
    """Few sizes, so that the statements stay prepared; the rest is filled up with nulls."""
    return next(size for size in SIZES if size >= least)


@cache
def _insertion(table: str, columns: int, rows: int) -> str:
    values = _values(columns, rows)
    if rows == 1:
        return f"INSERT INTO {table} {values}"
    return f"INSERT INTO {table} SELECT * FROM ({values}) WHERE column1 IS NOT NULL"


@cache
def _values(columns: int, rows: int) -> str:
    places = f"({', '.join('?' * columns)})"
    return f"VALUES {', '.join([places] * rows)}"
