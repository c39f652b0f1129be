"""Notes that outlive a restart, beside events and deliveries.

They are the states of sinks, values of the accounts that sinks use (under a digest of the
credentials), the last purge, and whether the spill is older than the store.
"""

from dataclasses import asdict

import apsw
import orjson

from relay.store import SinkState
from relay.store.sqlite import rows
from relay.store.sqlite.state import WriterState

SPILL_IS_OLDER = "INSERT OR REPLACE INTO meta VALUES ('spill_is_older', 1)"
SPILL_IS_NOT_OLDER = "DELETE FROM meta WHERE name = 'spill_is_older'"

MOST = 1_000
"""Values that are kept; of more, those go that were written the longest time ago."""

HAS_ACCOUNTS = "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = 'accounts')"
KEEP = (
    "INSERT INTO accounts (account, name, value, kept) VALUES (?, ?, ?, ?)"
    " ON CONFLICT (account, name) DO UPDATE SET value = excluded.value, kept = excluded.kept"
)
TOO_MANY = (
    "DELETE FROM accounts WHERE (account, name) IN"
    " (SELECT account, name FROM accounts ORDER BY kept DESC LIMIT -1 OFFSET ?)"
)


def recall(connection: apsw.Connection, account: str, name: str) -> str | None:
    """The value that was kept last; None without one."""
    if not rows.value(connection, HAS_ACCOUNTS):  # a command looks into a store of before
        return None
    found: str | None = rows.value(
        connection, "SELECT value FROM accounts WHERE account = ? AND name = ?", (account, name)
    )
    return found


def keep(
    connection: apsw.Connection, writer: WriterState, account: str, name: str, value: str
) -> None:
    """Have this be the value."""
    rows.every(connection, KEEP, (account, name, value, writer.now()))
    rows.every(connection, TOO_MANY, (MOST,))


def sink_states(connection: apsw.Connection) -> dict[str, SinkState]:
    found = rows.every(connection, "SELECT name, state FROM sinks")
    return {name: SinkState(**orjson.loads(state)) for name, state in found}


def save_sink_state(
    connection: apsw.Connection, writer: WriterState, sink: str, state: SinkState
) -> None:
    connection.execute(
        "UPDATE sinks SET state = ? WHERE id = ?",
        (orjson.dumps(asdict(state)).decode(), writer.sink(connection, sink)),
    )


def last_purge(connection: apsw.Connection) -> float | None:
    """When the last purge that went by itself ended, in seconds."""
    at: float | None = rows.value(connection, "SELECT value FROM meta WHERE name = 'last_purge'")
    return at


def note_purge(connection: apsw.Connection, _: WriterState, now: float) -> None:
    """Note the end of a purge that went by itself."""
    connection.execute("INSERT OR REPLACE INTO meta VALUES ('last_purge', ?)", (now,))


def nothing(_: apsw.Connection, __: WriterState) -> None:
    """Write nothing: it only takes its turn."""


def note_try(connection: apsw.Connection, writer: WriterState) -> None:
    """Write something."""
    connection.execute("INSERT OR REPLACE INTO meta VALUES ('last_try', ?)", (writer.now(),))


def spill_is_older(connection: apsw.Connection) -> bool:
    """Whether the spill may hold callbacks that came before some of the store's."""
    noted = "SELECT EXISTS (SELECT 1 FROM meta WHERE name = 'spill_is_older')"
    return bool(rows.value(connection, noted))


def note_spill_is_older(connection: apsw.Connection, _: WriterState, older: bool) -> None:
    """Note whether the spill may hold callbacks that came before some of the store's."""
    rows.every(connection, SPILL_IS_OLDER if older else SPILL_IS_NOT_OLDER)
