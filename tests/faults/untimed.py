"""A relay that waits for a disk for as long as it takes, as a control."""

import sys

from relay.cli import main
from relay.spill.disk import SharedTimeout

FOR_EVER = 1e6
made = SharedTimeout.__init__


def make(self, _) -> None:
    made(self, FOR_EVER)


if __name__ == "__main__":
    SharedTimeout.__init__ = make
    main(["run", *sys.argv[1:]])
