"""The guests: everybody who is connected to a listener, and room for those who come.

Where there are too many, some have to leave: those on whom the relay has waited the longest, in
proportion to its patience. So slow clients make room for others, and who opens hundreds of
connections from one address takes them from himself. The same goes for memory: where too much is
kept of requests that are not whole, those leave who have kept the most for the longest.
"""

import heapq
import logging
import math
from collections.abc import Iterable
from typing import Protocol

from relay.config.model import Server
from relay.senders import household
from relay.server import descriptors
from relay.server.proxies import NOBODY, Proxies

log = logging.getLogger("relay.server")

SHARE = 32
"""One in so many leaves at once, so that a flood of newcomers does not cost a look at all each."""
MEMORY = 64 * 2**20
"""Bytes of requests that are not whole: 256 bodies of the largest size."""


class Guest(Protocol):
    """A connection."""

    def waited(self) -> float:
        """Which share of its time is up; -1 while it is the relay that is waited for."""

    def send_away(self) -> None:
        """Close it, with a word where one is due."""


class Guests:
    """At most `total` at once, and `each` from one address that is no proxy's.

    Together they keep no more than `memory` bytes of what is not whole.
    """

    def __init__(
        self,
        total: float = math.inf,
        each: float = math.inf,
        proxies: Proxies = NOBODY,
        memory: float = MEMORY,
    ) -> None:
        self.total = total
        self.each = each
        self.proxies = proxies
        self.memory = memory
        self.sent_away = 0
        """How many had to leave so far."""
        self.held = 0
        """Bytes of requests that are not whole."""
        self._holding: dict[Guest, int] = {}
        self._all: dict[Guest, None] = {}
        self._tables: dict[str, dict[Guest, None]] = {}

    def __len__(self) -> int:
        return len(self._all)

    def join(self, guest: Guest, host: str) -> None:
        """Let it in, and others out where that is needed; itself where all others are served."""
        table = self._tables.setdefault(household(host), {})
        table[guest] = self._all[guest] = None
        if len(table) > self.each and not self.proxies.trusts(host):
            self._make_room(table, guest)
        elif len(self._all) > self.total:
            self._make_room(self._all, guest)

    def leave(self, guest: Guest, host: str) -> None:
        """Forget it, if it is there."""
        self._all.pop(guest, None)
        self.held -= self._holding.pop(guest, 0)
        table = self._tables.get(household(host))
        if table is not None:
            table.pop(guest, None)
            if not table:
                del self._tables[household(host)]

    def hold(self, guest: Guest, size: int) -> None:
        """So many bytes of the guest are here that cannot be worked on yet."""
        self.held += size - self._holding.pop(guest, 0)
        if size:
            self._holding[guest] = size
            if self.held > self.memory:
                self._free_memory()

    def _free_memory(self) -> None:
        enough = self.memory * (1 - 1 / SHARE)
        # Who sends more than is answered counts as who has used up his time.
        costs = [(abs(guest.waited()) * size, guest) for guest, size in self._holding.items()]
        for _, guest in sorted(costs, key=lambda each: each[0], reverse=True):
            if self.held <= enough:
                break
            self._dismiss(guest)

    def _make_room(self, table: Iterable[Guest], newcomer: Guest) -> None:
        waited = [(guest.waited(), guest) for guest in table if guest is not newcomer]
        idle = [(share, guest) for share, guest in waited if share >= 0]
        slowest = heapq.nlargest(max(1, len(waited) // SHARE), idle, key=lambda each: each[0])
        for guest in [guest for _, guest in slowest] or [newcomer]:
            self._dismiss(guest)

    def _dismiss(self, guest: Guest) -> None:
        self.sent_away += 1
        guest.send_away()


def expected(server: Server) -> Guests:
    """The guests of the public listener, as relay.yaml would have them and the system allows."""
    limits, possible = server.connections, descriptors.for_connections()
    if possible < limits.total:
        log.warning(
            "%d connections at once and no more: this process may open %d files",
            possible,
            descriptors.limit(),
        )
    return Guests(min(limits.total, possible), limits.each, Proxies(server.proxies))
