"""A relay that has no spill and no degraded state, as a control.

What the store does not take is refused; without its store the relay does not start, or ends.
"""

import sys

from relay import service
from relay.cli import main
from relay.daemon import Daemon
from relay.service import Service
from relay.spill.failover import FailoverStore
from relay.store import StoreError, StoreFull

FOR_EVER = 1e6


async def keep(self, _):
    raise StoreFull(self._reason)


def unopened(_, trouble):
    raise StoreError(trouble)


async def breaks(_, running):
    await running.failure()


if __name__ == "__main__":
    FailoverStore._append = keep
    Service._store_unavailable = unopened
    Daemon._wait_for_failure = breaks
    service.OPEN_WITHIN = FOR_EVER
    main(["run", *sys.argv[1:]])
