"""Stores as earlier releases left them: older/schema-1.sql was written out of such a file.

A later schema is what its release made of that file.
"""

import contextlib
from pathlib import Path

import apsw

from relay.store.sqlite.migrate import migrations

OLDER = Path(__file__).parent / "older"
EVENTS = 41
"""What schema-1.sql holds."""


def make_older(path: Path, schema: int = 1) -> Path:
    """The store of a release that knew no later schema."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(apsw.Connection(str(path))) as connection:
        connection.execute((OLDER / "schema-1.sql").read_text()).fetchall()
        for number, script in enumerate(migrations()[1:schema], start=2):
            connection.execute(
                f"BEGIN; {script}; PRAGMA user_version = {number}; COMMIT"
            ).fetchall()
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


def make_filled(path: Path) -> Path:
    """The store of a release with schema 4, as rows-4.sql describes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(apsw.Connection(str(path))) as connection:
        schema = "; ".join(migrations()[:4])
        rows = (OLDER / "rows-4.sql").read_text()
        connection.execute("PRAGMA journal_mode = WAL").fetchall()
        connection.execute(
            f"BEGIN; {schema}; DELETE FROM meta; {rows}; PRAGMA user_version = 4; COMMIT"
        ).fetchall()
    return path
