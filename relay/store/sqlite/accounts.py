"""What is kept of the accounts that sinks use: some text under a digest of the credentials."""

from collections.abc import Sequence
from contextlib import closing
from importlib import resources
from pathlib import Path
from typing import Any

import apsw

from relay.store.sqlite import descriptors, rows

MOST = 1_000
"""Values that are kept; of more, those go that were written the longest time ago."""

TABLE = "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = 'accounts')"
KEEP = (
    "INSERT INTO accounts (account, name, value, kept) VALUES (?, ?, ?, ?)"
    " ON CONFLICT (account, name) DO UPDATE SET value = excluded.value, kept = excluded.kept"
)
NEWER = " WHERE excluded.kept > accounts.kept"
TOO_MANY = (
    "DELETE FROM accounts WHERE (account, name) IN"
    " (SELECT account, name FROM accounts ORDER BY kept DESC LIMIT -1 OFFSET ?)"
)


def recall(connection: apsw.Connection, account: str, name: str) -> str | None:
    """The value that was kept last; None without one."""
    if not rows.value(connection, TABLE):  # a command looks into a store of before
        return None
    found: str | None = rows.value(
        connection, "SELECT value FROM accounts WHERE account = ? AND name = ?", (account, name)
    )
    return found


def keep(connection: apsw.Connection, account: str, name: str, value: str, now: int) -> None:
    """Have this be the value; `now` in microseconds."""
    rows.every(connection, KEEP, (account, name, value, now))
    rows.every(connection, TOO_MANY, (MOST,))


def every(connection: apsw.Connection) -> list[Any]:
    """All that is kept, to be written elsewhere; none in a store of before."""
    if not rows.value(connection, TABLE):
        return []
    return rows.every(connection, "SELECT account, name, value, kept FROM accounts")


def write(values: Sequence[Any], copy: Path) -> None:
    """Write the values into a copy of a store of any release; what is newer there stays."""
    if not values:
        return
    script = resources.files("relay.store.sqlite") / "schema" / "0004-accounts.sql"
    with closing(descriptors.connect(copy)) as connection:
        rows.every(connection, "PRAGMA journal_mode = MEMORY")
        rows.every(connection, "PRAGMA synchronous = FULL")
        with connection:
            rows.every(connection, script.read_text(encoding="utf-8"))
            connection.executemany(KEEP + NEWER, values)
