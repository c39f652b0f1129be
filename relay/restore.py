"""The restore: a copy takes the store's place, and what came since it was made goes to the spill.

So does what waited in the spill when it was made, if it is a backup. From there the next start
stores it, under the ids that the senders got; the release that starts may be an older one.
"""

from collections.abc import Iterable, Iterator
from contextlib import closing
from itertools import chain
from pathlib import Path

import apsw

from relay import fsutil
from relay.spill.file import SpillFile
from relay.spill.records import Spilled, decode, encode
from relay.store.sqlite.backup import copied, spilled
from relay.store.sqlite.connection import lock
from relay.store.sqlite.restore import Restored, callbacks_since, keep_present, put_aside


def restore(source: apsw.Connection, store: Path, spill: Path, now: float) -> Restored:
    """Have the store be as the source is. Nothing is removed, and a kill at any step loses nothing.

    Raises StoreLocked while a relay runs, StoreError or OSError.
    """
    restored = Restored()
    waiting = SpillFile(spill)
    with closing(lock(store)), closing(waiting):
        waiting.open()  # a relay that cannot open its store has this
        with copied(source, store) as copy:
            if store.exists():
                keep_present(store, copy.path, restored)
            since = callbacks_since(store, copy.path, restored) if store.exists() else ()
            lines = (encode(Spilled(*each)) for each in since)
            restored.since = _keep(chain(spilled(source), lines), spill)
            if store.exists():
                restored.aside = put_aside(store, now)
            copy.replace(store.name)
    return restored


def _keep(lines: Iterable[bytes], spill: Path) -> int:
    """Put the lines before those of the spill, which came later; return how many there are.

    Each callback is there once, also after a kill during an earlier restore.
    """
    fsutil.make(spill.parent)
    seen: set[str] = set()
    lines = _once(lines, seen)
    if (first := next(lines, None)) is None:
        return 0
    with fsutil.replaced(spill) as file:
        for number, line in enumerate(chain([first], lines), start=1):  # noqa: B007
            file.write(line)
        if spill.exists():
            with fsutil.reading(spill) as old:
                file.writelines(_once(old, seen))
    return number


def _once(lines: Iterable[bytes], seen: set[str]) -> Iterator[bytes]:
    """The records with new callbacks; and those that an operator must look at."""
    for line in lines:
        found = decode(line)
        if found is None or found.id not in seen:
            yield line
        if found is not None:
            seen.add(found.id)
