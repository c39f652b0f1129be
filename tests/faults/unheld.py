"""A relay that lets go of its sockets when it starts anew, as a control: requests must fail."""

import sys

from relay.cli import main
from relay.reexec import Kept

start_anew = Kept.start_anew


def let_go(self):
    self.listeners.close()
    self.listeners.activated.clear()
    self.listeners.bound.clear()
    start_anew(self)


if __name__ == "__main__":
    Kept.start_anew = let_go
    main(sys.argv[1:])
