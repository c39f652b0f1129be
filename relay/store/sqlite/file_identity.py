"""Presence: whether the names of the store's files still lead to what is open of them.

Who deletes or replaces a file that is open goes unnoticed by SQLite: it goes on writing, and all of
that is gone with the process.
"""

import os
from pathlib import Path

ENDS = ("", "-wal", "-shm")

Identity = tuple[int, int]


class Presence:
    """Notes the files as they are; make it when they have just been opened. Raises OSError."""

    def __init__(self, path: Path) -> None:
        os.stat(path)  # noqa: PTH116  a store without its file is none
        self._names = [f"{path}{end}" for end in ENDS]
        self._opened = [_identity(name) for name in self._names]

    def missing(self) -> list[str]:
        """The names that lead elsewhere by now, or nowhere."""
        return [
            name
            for name, opened in zip(self._names, self._opened, strict=True)
            if _identity(name) != opened
        ]

    def log_is_anothers(self) -> bool:
        """Whether the log that has the name belongs to another store, which has the name, too."""
        store, log, _ = self._names
        return {store, log} <= set(self.missing())


def _identity(name: str) -> Identity | None:
    try:
        found = os.stat(name)  # noqa: PTH116  it is asked before each answer, and a Path costs more
    except OSError:
        return None
    return found.st_dev, found.st_ino
