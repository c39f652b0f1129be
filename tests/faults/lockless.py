"""A relay that takes the store whoever has it, as a control: two at once must do damage."""

import fcntl
import sys

from relay.cli import main

if __name__ == "__main__":
    fcntl.flock = lambda *_: None
    main(["run", *sys.argv[1:]])
