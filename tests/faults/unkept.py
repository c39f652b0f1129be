"""A relay that keeps nothing of accounts over a restart, as a control."""

import sys

from relay.cli import main
from relay.store.sqlite import SqliteStore


async def keep(*_) -> None:
    pass


if __name__ == "__main__":
    SqliteStore.keep = keep
    main(["run", *sys.argv[1:]])
