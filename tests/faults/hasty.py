"""A relay that acknowledges before the commit, as a control: kills must make it lose events.

It hands arrivals to the writer a moment later, as a queue does that is flushed every so often.
"""

import asyncio
import sys

from relay.cli import main
from relay.store import Receipt
from relay.store.sqlite.store import SqliteStore

FLUSHED_AFTER = 0.05
committed = SqliteStore.add


async def add(self, arrival):
    asyncio.get_running_loop().call_later(
        FLUSHED_AFTER, lambda: asyncio.ensure_future(committed(self, arrival))
    )
    return Receipt(arrival.event.id, arrival.event.type)


def hasten():
    SqliteStore.add = add


if __name__ == "__main__":
    hasten()
    main(["run", *sys.argv[1:]])
