"""The protocols of systemd: notifications by sd_notify, and the watchdog."""

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Self

from relay.clock import MICROSECONDS
from relay.store import StoreError

SHARE = 3
"""It is fed so often within the time after which the manager would act."""

LONGEST_HANG = 600.0
"""Seconds for which a disk may hang: a restart would only wait for it, too."""

Pulse = Callable[[], Awaitable[None]]


class SystemdNotifier:
    """Sends its messages to the manager's socket; without one it says nothing."""

    def __init__(self, address: str = "") -> None:
        # An abstract name begins with a NUL, which no environment variable can hold.
        self._address = f"\0{address[1:]}" if address.startswith("@") else address

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Self:
        """The notifier for the socket that the environment names."""
        return cls(environ.get("NOTIFY_SOCKET", ""))

    def ready(self, status: str) -> None:
        """Callbacks are taken, from now on or again."""
        self._send("READY=1", _status(status))

    def extend_timeout(self, status: str, seconds: float) -> None:
        """It will be ready, but may need so much longer, or more: it says so again then."""
        self._send(f"EXTEND_TIMEOUT_USEC={int(seconds * MICROSECONDS)}", _status(status))

    def reloading(self) -> None:
        """Report a reload. `ready` follows, from this process or its next image."""
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send("RELOADING=1", f"MONOTONIC_USEC={now}", _status("reading the configuration"))

    def stopping(self) -> None:
        self._send("STOPPING=1", _status("stopping"))

    def feed_watchdog(self) -> None:
        """Feed the watchdog."""
        self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> None:
        if not self._address:
            return
        # A manager that does not listen is no reason to fail; nor may it hold up the event loop.
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender,
        ):
            sender.setblocking(False)
            sender.sendto("\n".join(lines).encode(), self._address)


def _status(text: str) -> str:
    return "STATUS=" + text.partition("\n")[0]


class Watchdog:
    """Feeds the manager's watchdog while the event loop turns and the store's writer answers.

    A store that refuses to write is alive: a restart would not mend a full disk. So is one that
    does not answer, for up to `longest_hang` seconds: callbacks are kept elsewhere meanwhile.
    """

    def __init__(
        self, notifier: SystemdNotifier, every: float | None, longest_hang: float = LONGEST_HANG
    ) -> None:
        self._notifier = notifier
        self._every = every
        self._longest_hang = longest_hang
        self._pulse: Pulse | None = None
        self._task: asyncio.Task[None] | None = None

    @classmethod
    def of(cls, environ: Mapping[str, str], notifier: SystemdNotifier) -> "Watchdog":
        """The one that the environment asks for, which may be none."""
        return cls(notifier, interval(environ))

    def start(self) -> None:
        if self._every is not None:
            self._task = asyncio.create_task(self._feed(self._every))

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def require(self, pulse: Pulse | None) -> None:
        """Feed only while `pulse` returns, too; with None while the loop turns."""
        self._pulse = pulse

    async def _feed(self, every: float) -> None:
        loop = asyncio.get_running_loop()
        answered = loop.time()
        while True:
            if await self._answers(every):
                answered = loop.time()
            if loop.time() - answered <= self._longest_hang:
                self._notifier.feed_watchdog()
            await asyncio.sleep(every)

    async def _answers(self, every: float) -> bool:
        """Whether the writer answers; waited for so long that the manager need not act."""
        if self._pulse is not None:
            with contextlib.suppress(StoreError):
                try:
                    await asyncio.wait_for(self._pulse(), every)
                except TimeoutError:
                    return False
        return True


def interval(environ: Mapping[str, str]) -> float | None:
    """Seconds between two feedings; None where no watchdog waits for this process."""
    microseconds = environ.get("WATCHDOG_USEC", "")
    meant = environ.get("WATCHDOG_PID", str(os.getpid()))
    if meant != str(os.getpid()) or not microseconds.isdecimal() or not int(microseconds):
        return None
    return int(microseconds) / MICROSECONDS / SHARE
