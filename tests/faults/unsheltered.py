"""A relay that has no spill, as a control: what the store does not take is refused."""

import sys

from relay import rescue, service, shelter
from relay.cli import main
from relay.store import StoreFull


async def keep(self, _):
    raise StoreFull(self._trouble)


def rescued(_, error, *__):
    raise error


if __name__ == "__main__":
    shelter.Shelter._keep = keep
    rescue.rescued = service.rescued = rescued
    main(["run", *sys.argv[1:]])
