"""The lag watch: notices when something blocks the event loop, and names the line that does."""

import asyncio
import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable
from itertools import takewhile
from types import FrameType

BEAT = 0.1
LAG = 1.0
"""Seconds without a beat that are worth a warning."""

LOOKS = 4
"""How often the thread looks within that time."""

SHOWN = 3
HOSTS = ("asyncio", "relay", "uvloop")

log = logging.getLogger("relay.lag")


class LagWatch:
    """A thread that looks at the event loop's thread whenever its heart stops for `lag` seconds.

    `look` is called at each of the thread's looks, as others have a use for a second thread.
    """

    def __init__(self, lag: float = LAG, look: Callable[[], None] | None = None) -> None:
        self._lag = lag
        self._look = look
        self._beat = time.monotonic()
        self._stop = threading.Event()
        self._loop_thread = threading.get_ident()
        self._thread = threading.Thread(target=self._watch, name="lag-watch", daemon=True)
        self._heart: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Watch the running event loop."""
        self._heart = asyncio.create_task(self._beats())
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._heart is not None:
            self._heart.cancel()

    async def _beats(self) -> None:
        while True:
            self._beat = time.monotonic()
            await asyncio.sleep(BEAT)

    def _watch(self) -> None:
        named = 0.0
        while not self._stop.wait(self._lag / LOOKS):
            if self._look is not None:
                self._look()
            beat = self._beat
            if time.monotonic() - beat > self._lag and beat != named:
                named = beat
                log.error("the event loop has stood still for %g s in %s", self._lag, self._where())

    def _where(self) -> str:
        """The innermost lines of the loop's thread, and the plugin's where it called them."""
        innermost = sys._current_frames().get(self._loop_thread)  # noqa: SLF001  documented
        frames = [frame for frame, _ in traceback.walk_stack(innermost)]
        guests = list(takewhile(_is_guest, frames))
        shown = frames[:SHOWN] + guests[SHOWN:][-1:]
        return " < ".join(
            f"{each.f_code.co_filename}:{each.f_lineno} {each.f_code.co_name}" for each in shown
        )


def _is_guest(frame: FrameType) -> bool:
    """Whether the frame is a plugin's, or that of a library it uses."""
    return frame.f_globals.get("__name__", "").partition(".")[0] not in HOSTS
