"""Starting anew: the process goes on as a new image of itself, and keeps what must not be let go.

That is how relay.yaml and the plugins are read again: there is one way to start, and no other to
change while running. It is also how a store that broke is got rid of, with all that was known and
open of it. The number of the process stays, so nobody who watches it is puzzled.
"""

import os
import signal
import sys
from collections.abc import MutableMapping
from dataclasses import asdict, dataclass
from typing import NoReturn, Self

import orjson

from relay.health import StoreBackoff
from relay.server.sockets import Listeners

VARIABLE = "RELAY_KEPT"
"""Tells the next image which descriptors are what."""
SIGNALS = (signal.SIGHUP, signal.SIGTERM, signal.SIGINT)


@dataclass(slots=True)
class Kept:
    """What outlives an image: its listeners, the descriptor of the store's lock, how that broke."""

    listeners: Listeners
    lock: int | None = None
    broke: StoreBackoff | None = None

    @classmethod
    def taken(cls, environ: MutableMapping[str, str]) -> Self:
        """What this image was started with; no process that it starts hears of it."""
        text = environ.pop(VARIABLE, None)
        if text is None:
            return cls(Listeners.from_systemd(environ))
        kept = orjson.loads(text)
        if kept["lock"] is not None:
            os.set_inheritable(kept["lock"], False)
        broke = kept["broke"] and StoreBackoff(**kept["broke"])
        return cls(Listeners.from_handles(kept["listeners"]), kept["lock"], broke)

    def start_anew(self) -> NoReturn:
        """Become the next image. Raises OSError where the program has gone.

        A signal that comes meanwhile waits until the new image listens to it: at the start of a
        program it would end the process.
        """
        told = {
            "listeners": self.listeners.handles(),
            "lock": self.lock,
            "broke": self.broke and asdict(self.broke),
        }
        for descriptor in (*self.listeners.descriptors(), self.lock):
            if descriptor is not None:
                os.set_inheritable(descriptor, True)
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        for timer in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL):
            signal.setitimer(timer, 0)  # it would ring in the new image, and end it
        sys.stdout.flush()
        sys.stderr.flush()
        arguments = [sys.executable, *sys.orig_argv[1:]]
        os.execve(sys.executable, arguments, {**os.environ, VARIABLE: orjson.dumps(told).decode()})  # noqa: S606  no shell is meant
