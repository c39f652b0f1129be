"""The neighbours: the csv sinks of this process, of which no two write to one file.

Each keeps its announcements to itself. After a crash, the one would cut off what the other has
written behind its unfinished rows.
"""

import threading
from pathlib import Path
from weakref import WeakKeyDictionary

from .place import Place

_lock = threading.Lock()
_taken: WeakKeyDictionary[Place, set[Path]] = WeakKeyDictionary()
"""The files that each has written to."""


def join(place: Place) -> None:
    """From here on the file that it always writes to is its own."""
    with _lock:
        _taken[place] = set()


def leave(place: Place) -> None:
    """It writes no more."""
    with _lock:
        _taken.pop(place, None)


def take(place: Place, path: Path) -> bool:
    """Whether a file is this one's to write to, from now on where it was nobody's."""
    file = path.resolve()
    with _lock:
        for other, files in _taken.items():
            if other.ledger == place.ledger:
                continue  # that, the ledger sees to
            if file in files or (not place.fixed and other.fixed and other.fixed.resolve() == file):
                return False
        _taken.setdefault(place, set()).add(file)
        return True
