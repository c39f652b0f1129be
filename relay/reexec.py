"""Re-exec: the process replaces its image by a new one, which inherits its sockets and its lock.

A reload of relay.yaml and the plugins is a re-exec, so that nothing has to change while running. A
store that broke is dropped by one, too, with all its open files and caches. The process keeps its
number, so systemd sees no restart.
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
"""The environment variable in which the next image finds the descriptors."""
SIGNALS = (signal.SIGHUP, signal.SIGTERM, signal.SIGINT)


@dataclass(slots=True)
class Inherited:
    """What an image passes on: listeners, the store's lock, how the store broke."""

    listeners: Listeners
    lock: int | None = None
    broke: StoreBackoff | None = None

    @classmethod
    def from_environ(cls, environ: MutableMapping[str, str]) -> Self:
        """What the image before passed on. The variable is removed: no child may inherit it."""
        text = environ.pop(VARIABLE, None)
        if text is None:
            return cls(Listeners.from_systemd(environ))
        state = orjson.loads(text)
        if state["lock"] is not None:
            os.set_inheritable(state["lock"], False)
        broke = state["broke"] and StoreBackoff(**state["broke"])
        return cls(Listeners.from_handles(state["listeners"]), state["lock"], broke)

    def reexec(self) -> NoReturn:
        """Become the next image. Raises OSError where the program has gone.

        Signals are blocked until the new image handles them: before that, one would end it.
        """
        state = {
            "listeners": self.listeners.handles(),
            "lock": self.lock,
            "broke": self.broke and asdict(self.broke),
        }
        for descriptor in (*self.listeners.descriptors(), self.lock):
            if descriptor is not None:
                os.set_inheritable(descriptor, True)
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        for timer in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL):
            signal.setitimer(timer, 0)  # it would end the new image
        sys.stdout.flush()
        sys.stderr.flush()
        arguments = [sys.executable, *sys.orig_argv[1:]]
        os.execve(sys.executable, arguments, {**os.environ, VARIABLE: orjson.dumps(state).decode()})  # noqa: S606  no shell is meant
