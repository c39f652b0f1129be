"""A relay that waits for a disk for as long as it takes, as a control."""

import sys

from relay.cli import main
from relay.fallback.patience import Patience

FOR_EVER = 1e6
made = Patience.__init__


def make(self, _) -> None:
    made(self, FOR_EVER)


if __name__ == "__main__":
    Patience.__init__ = make
    main(["run", *sys.argv[1:]])
