"""The neighbours: the csv sinks of this process, of which no two write to one file.

Each keeps its announcements to itself. After a crash, the one would cut off what the other has
written behind its unfinished rows.
"""

import hashlib
import os
import threading
from pathlib import Path
from weakref import WeakKeyDictionary

from .place import Place

MOST_FILES = 50_000
"""Files of a sink that are remembered, the latest; senders may name any number. A few MiB."""
KEY = 16
"""Bytes for each of them, however long its name is."""

_lock = threading.Lock()
_taken: WeakKeyDictionary[Place, dict[bytes, None]] = WeakKeyDictionary()
"""The files that each has written to, the latest last."""


def join(place: Place) -> None:
    """From here on the file that it always writes to is its own."""
    with _lock:
        _taken[place] = {}


def leave(place: Place) -> None:
    """It writes no more."""
    with _lock:
        _taken.pop(place, None)


def take(place: Place, path: Path) -> bool:
    """Whether a file is this one's to write to, from now on where it was nobody's."""
    file = path.resolve()
    key = hashlib.blake2b(os.fsencode(file), digest_size=KEY).digest()
    with _lock:
        for other, files in _taken.items():
            if other.ledger == place.ledger:
                continue  # that, the ledger sees to
            if key in files or (not place.fixed and other.fixed and other.fixed.resolve() == file):
                return False
        _remember(_taken.setdefault(place, {}), key)
        return True


def _remember(files: dict[bytes, None], key: bytes) -> None:
    files.pop(key, None)
    files[key] = None
    if len(files) > MOST_FILES:
        del files[next(iter(files))]
