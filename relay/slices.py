"""Slices: long work on the event loop, cut so that others have their turn between two of them."""

import asyncio
from time import perf_counter

SLICE = 0.01
"""Seconds. What senders wrote decides how long a batch takes, and a callback is to be answered."""


class Slices:
    """Made where a loop begins; `rest` is awaited between two of its items.

    An item may take longer than a slice, and no item should take long: this bounds what many of
    them take together.
    """

    def __init__(self) -> None:
        self._end = perf_counter() + SLICE

    async def rest(self) -> None:
        """Let others have their turn, where this slice is over."""
        if perf_counter() < self._end:
            return
        await asyncio.sleep(0)
        self._end = perf_counter() + SLICE
