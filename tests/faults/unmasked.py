"""A relay that logs whatever it is told to log, as a control: the canary must be seen.

Its first argument is that of `altered`.
"""

import sys

from altered import alter

from relay.cli import main
from relay.monitoring import logs

if __name__ == "__main__":
    logs._without_numbers = lambda _: True
    alter(sys.argv.pop(1))
    main(sys.argv[1:])
