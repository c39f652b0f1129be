"""Stores as earlier releases left them: older/schema-N.sql was written out of such a file."""

import contextlib
from pathlib import Path

import apsw

OLDER = Path(__file__).parent / "older"
EVENTS = 41
"""What schema-1.sql holds."""


def make_older(path: Path, schema: int = 1) -> Path:
    """The store of a release that knew no later schema."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(apsw.Connection(str(path))) as connection:
        connection.execute((OLDER / f"schema-{schema}.sql").read_text()).fetchall()
    return path


def content(path: Path) -> dict[str, list[tuple]]:
    """Every row of every table, to be compared; and the schema's number."""
    with contextlib.closing(apsw.Connection(str(path))) as connection:
        tables = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")
        return {
            "user_version": connection.execute("PRAGMA user_version").fetchall(),
            **{
                name: sorted(connection.execute(f"SELECT * FROM {name}").fetchall(), key=repr)
                for (name,) in tables.fetchall()
            },
        }
