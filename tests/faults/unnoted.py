"""A relay that does not keep that its spill is older than its store, as a control."""

import sys

from relay.cli import main
from relay.store.sqlite import SqliteStore


async def note(*_) -> None:
    pass


if __name__ == "__main__":
    SqliteStore.note_spill_is_older = note
    main(["run", *sys.argv[1:]])
