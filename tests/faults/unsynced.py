"""A relay that leaves it to the system when to write, as a control: power cuts must cost events.

Its first argument says what is not synced: the `store`, which then has `synchronous = NORMAL`
as much advice has it, or the `archive`, with all else that is synced without SQLite, as the spill.
"""

import os
import sys

from relay.cli import main
from relay.store.sqlite import migrate


def store():
    migrate.WRITER_PRAGMAS = tuple(
        pragma.replace("FULL", "NORMAL") for pragma in migrate.WRITER_PRAGMAS
    )


def archive():
    os.fsync = os.fdatasync = lambda _: None


if __name__ == "__main__":
    {"store": store, "archive": archive}[sys.argv[1]]()
    main(["run", *sys.argv[2:]])
