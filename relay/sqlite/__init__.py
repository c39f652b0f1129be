"""The embedded store: one SQLite file, owned by one process."""

from relay.sqlite.store import SqliteStore

__all__ = ["SqliteStore"]
