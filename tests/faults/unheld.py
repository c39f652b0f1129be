"""A relay that lets go of its sockets when it starts anew, as a control: requests must fail."""

import sys

from relay.cli import main
from relay.reexec import Inherited

reexec = Inherited.reexec


def let_go(self):
    self.listeners.close()
    self.listeners.activated.clear()
    self.listeners.bound.clear()
    reexec(self)


if __name__ == "__main__":
    Inherited.reexec = let_go
    main(sys.argv[1:])
