"""A wall clock that jumps under a running relay. As a script, a relay that goes by it.

The monotonic clock goes on, as it does when somebody, or NTP, sets the time.

python -m clockwork [--credulous] run … has the offset in the file `offset` in its folder. With
--credulous it believes any time that it has written down, as a control: jumps must halt it.
"""

import contextlib
import math
import sys
import time
from pathlib import Path

from relay.cli import main
from relay.delivery import gate, queue
from relay.store.sqlite import claim

JUMPY = ("-m", "clockwork", "run")
CREDULOUS = ("-m", "clockwork", "--credulous", "run")
OFFSET = Path("offset")


class WallClock:
    """The wall clock of the relays in a folder."""

    def __init__(self, folder: Path) -> None:
        self._offset = folder / OFFSET

    def jump(self, seconds: float) -> None:
        """So far off the real time; 0 is back."""
        new = self._offset.with_suffix(".new")
        new.write_text(str(seconds))
        new.rename(self._offset)


real = time.time


def jumping() -> float:
    offset = 0.0
    with contextlib.suppress(FileNotFoundError):
        offset = float(OFFSET.read_text())
    return real() + offset


if __name__ == "__main__":
    time.time = jumping
    queue.LONGEST_POLL = 1.0  # for a clock that jumps between a claim and its wait
    if sys.argv[1] == "--credulous":
        del sys.argv[1]
        gate.planned = lambda _state: math.inf
        claim.adjust_to_clock = lambda *_: None
    main(sys.argv[1:])
