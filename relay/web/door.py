"""The door of a source: who may send to it, and how much."""

import logging
import math
from collections.abc import Callable

from relay.configuration.settings import SourceConfig
from relay.units import Rate
from relay.web.bucket import Bucket
from relay.web.proxies import parsed
from relay.web.tokens import Tokens

log = logging.getLogger("relay.ingress")

STRANGERS = Rate(1000, 60.0)
"""Those whose token or address is wrong have a limit of their own, so that they take nothing from
the vendor's; as many are kept in quarantine."""
REMINDER = 60.0
"""Seconds between two lines in the log about the same: it may lie on a disk that is full."""


class Door:
    """The door of one source. `now` gives seconds that only go forward."""

    def __init__(self, name: str, source: SourceConfig, now: Callable[[], float]) -> None:
        self.tokens = Tokens(token.get_secret_value() for token in source.tokens)
        self._networks = source.allow_from
        self.open = not self.tokens and not self._networks
        self._requests = Bucket(source.limit.rate, now)
        self._bytes = Bucket(source.limit.bytes, now)
        self._strangers = Bucket(STRANGERS, now)
        self._above_limit = _Line("above its limit, refused with 429", logging.WARNING, name, now)
        self._not_stored = _Line("refused with 503", logging.ERROR, name, now)

    def knows(self, peer: tuple[str, int] | None) -> bool:
        """Whether the sender is in one of the networks.

        It is the socket's other end; or, where that is a proxy that we trust, who is behind it.
        """
        if not self._networks:
            return True
        address = parsed(peer[0]) if peer else None
        return address is not None and any(address in network for network in self._networks)

    def wait(self, size: int) -> float:
        """The seconds after which a callback of that size may come; mostly none at all."""
        wait = self._requests.take() or self._bytes.take(size)
        return self._tell(wait) if wait else 0.0

    def wait_of_stranger(self) -> float:
        """The same for somebody whom we do not know."""
        wait = self._strangers.take()
        return self._tell(wait) if wait else 0.0

    def not_stored(self, reason: object) -> None:
        """A callback of somebody who may send could be kept nowhere."""
        self._not_stored.write(f", {reason}")

    def _tell(self, wait: float) -> float:
        self._above_limit.write()
        return wait


class _Line:
    """A line of the log: at once, then with how many there were, at most so often."""

    def __init__(self, text: str, level: int, source: str, now: Callable[[], float]) -> None:
        self._text = text
        self._level = level
        self._source = source
        self._now = now
        self._told = -math.inf
        self._untold = 0

    def write(self, reason: str = "") -> None:
        self._untold += 1
        if self._now() - self._told >= REMINDER:
            text = self._text + reason
            log.log(self._level, "source %s: %s: %d", self._source, text, self._untold)
            self._told, self._untold = self._now(), 0
