"""A relay that never puts a deadline off, as a control: what came during a stop must get 408."""

import sys

from relay.cli import main
from relay.server.connections import Deadline

ring = Deadline._on_timer

if __name__ == "__main__":
    Deadline._on_timer = lambda self, _: ring(self, self._at)
    main(sys.argv[1:])
