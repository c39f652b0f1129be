"""Moving many rows in one step.

Each step of a statement lets go of Python's lock and has to win it back from a busy event loop,
so rows come and go by the hundred: as one JSON array, or as one statement of many rows.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import apsw
import orjson

CHUNKS = (64, 16, 4, 1)


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


def array(values: Sequence[int]) -> str:
    """The values as text for `json_each`."""
    return orjson.dumps(values).decode()


def insert(connection: apsw.Connection, table: str, rows: Sequence[Sequence[Any]]) -> None:
    """Insert the rows, each with a value for every column of the table."""
    for chunk in _chunks(rows):
        places = f"({', '.join('?' * len(chunk[0]))})"
        connection.execute(
            f"INSERT INTO {table} VALUES {', '.join([places] * len(chunk))}",
            [each for row in chunk for each in row],
        )


def _chunks(rows: Sequence[Sequence[Any]]) -> Iterator[Sequence[Sequence[Any]]]:
    """Cut into few sizes, so that the statements stay prepared."""
    start = 0
    while start < len(rows):
        size = next(size for size in CHUNKS if size <= len(rows) - start)
        yield rows[start : start + size]
        start += size
