"""Processor time as a share of what the standard library needs to read a form of 256 KiB.

Machines differ in speed by a factor of several. The library's time says how fast this one is now.
"""

import time
from urllib.parse import parse_qsl

FORM = "a=%41&" * (256 * 1024 // 6)
"""Read in about 0.1 s on the machine of which the bounds were taken."""
TRIES = 5


def seconds(run):
    """Seconds of processor time of one call."""
    begun = time.process_time()
    run()
    return time.process_time() - begun


def form_of_the_library():
    parse_qsl(FORM)


def share(run, most):
    """The share of one call, or the least of several where the first is more than `most`.

    Garbage collection or a neighbour on the same core may come between.
    """
    shares = []
    while len(shares) < TRIES and (not shares or shares[-1] > most):
        shares.append(seconds(run) / seconds(form_of_the_library))
    return min(shares)
