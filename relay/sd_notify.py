"""Notify: tells the service manager how the service stands (the protocol of sd_notify)."""

import contextlib
import socket
import time
from collections.abc import Mapping
from typing import Self

from relay.clock import MICROSECONDS


class Notifier:
    """Sends its messages to the manager's socket; without one it says nothing."""

    def __init__(self, address: str = "") -> None:
        # An abstract name begins with a NUL, which no environment variable can hold.
        self._address = f"\0{address[1:]}" if address.startswith("@") else address

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Self:
        """The one that the environment tells of."""
        return cls(environ.get("NOTIFY_SOCKET", ""))

    def ready(self, status: str) -> None:
        """Callbacks are taken, from now on or again."""
        self._send("READY=1", _status(status))

    def not_yet(self, status: str, seconds: float) -> None:
        """It will be ready, but may need so much longer, or more: it says so again then."""
        self._send(f"EXTEND_TIMEOUT_USEC={int(seconds * MICROSECONDS)}", _status(status))

    def reloading(self) -> None:
        """The configuration is read anew; `ready` follows, from this process or its next image."""
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send("RELOADING=1", f"MONOTONIC_USEC={now}", _status("reading the configuration"))

    def stopping(self) -> None:
        self._send("STOPPING=1", _status("stopping"))

    def alive(self) -> None:
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
