"""A relay that never puts a deadline off, as a control: what came during a stop must get 408."""

import sys

from relay.cli import main
from relay.server.deadline import Deadline

ring = Deadline._ring

if __name__ == "__main__":
    Deadline._ring = lambda self, _: ring(self, self._at)
    main(sys.argv[1:])
