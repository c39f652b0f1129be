"""Connection limiter, open-file limit, and the deadline of a connection.

Above a limit the limiter evicts connections: first those that have used up the largest part of
their deadline. So slow clients make room for others, and a client that opens hundreds of
connections from one address loses its own. Where incomplete requests take too much memory, the
largest and slowest of them are evicted.
"""

import asyncio
import heapq
import logging
import math
import resource
from collections.abc import Callable, Iterable
from typing import Protocol

from relay.config.model import Server as ServerSettings
from relay.senders import client_key
from relay.server.access import NO_PROXIES, TrustedProxies

log = logging.getLogger("relay.server")

EVICTION_DIVISOR = 32
"""One connection in so many is evicted at a time: a flood must not cost a scan per newcomer."""
MAX_MEMORY = 64 * 2**20
"""Bytes of incomplete requests: 256 bodies of the largest size."""
LOOP_TURN = 0.001
"""Seconds of a timer before which the event loop polls its sockets once more."""


class LimitedConnection(Protocol):
    """A connection, as far as the limiter is concerned."""

    def elapsed_share(self) -> float:
        """The part of its deadline that is used up; -1 while it waits for the relay."""

    def evict(self) -> None:
        """Close it, after an answer where one is due."""


class ConnectionLimiter:
    """Limits of one listener: connections in total and per client, memory of incomplete requests.

    `per_client` does not apply to trusted proxies.
    """

    def __init__(
        self,
        total: float = math.inf,
        per_client: float = math.inf,
        proxies: TrustedProxies = NO_PROXIES,
        max_memory: float = MAX_MEMORY,
    ) -> None:
        self.total = total
        self.per_client = per_client
        self.proxies = proxies
        self.max_memory = max_memory
        self.memory = 0
        """Bytes of incomplete requests."""
        self._memory_of: dict[LimitedConnection, int] = {}
        self._all: dict[LimitedConnection, None] = {}
        self._of_client: dict[str, dict[LimitedConnection, None]] = {}

    def __len__(self) -> int:
        return len(self._all)

    def add(self, connection: LimitedConnection, host: str) -> None:
        """Count the connection, and evict others above a limit; itself where none is idle."""
        siblings = self._of_client.setdefault(client_key(host), {})
        siblings[connection] = self._all[connection] = None
        if len(siblings) > self.per_client and not self.proxies.trusts(host):
            self._evict_slowest(siblings, connection)
        elif len(self._all) > self.total:
            self._evict_slowest(self._all, connection)

    def remove(self, connection: LimitedConnection, host: str) -> None:
        """Count the connection no longer, if it was counted."""
        self._all.pop(connection, None)
        self.memory -= self._memory_of.pop(connection, 0)
        siblings = self._of_client.get(client_key(host))
        if siblings is not None:
            siblings.pop(connection, None)
            if not siblings:
                del self._of_client[client_key(host)]

    def account(self, connection: LimitedConnection, size: int) -> None:
        """Set the memory of the connection's incomplete requests, in bytes."""
        self.memory += size - self._memory_of.pop(connection, 0)
        if size:
            self._memory_of[connection] = size
            if self.memory > self.max_memory:
                self._free_memory()

    def _free_memory(self) -> None:
        target = self.max_memory * (1 - 1 / EVICTION_DIVISOR)
        # A client that pipelines more than is answered counts as one with a used-up deadline.
        costs = [(abs(each.elapsed_share()) * size, each) for each, size in self._memory_of.items()]
        for _, connection in sorted(costs, key=lambda cost: cost[0], reverse=True):
            if self.memory <= target:
                break
            connection.evict()

    def _evict_slowest(
        self, connections: Iterable[LimitedConnection], newcomer: LimitedConnection
    ) -> None:
        others = [(each.elapsed_share(), each) for each in connections if each is not newcomer]
        idle = [(share, each) for share, each in others if share >= 0]
        number = max(1, len(others) // EVICTION_DIVISOR)
        slowest = heapq.nlargest(number, idle, key=lambda item: item[0])
        for connection in [each for _, each in slowest] or [newcomer]:
            connection.evict()


def limiter_for(settings: ServerSettings, open_files: int) -> ConnectionLimiter:
    """The limiter of the public listener, below what the open-file limit allows.

    A quarter of the open files is left to the store, the sinks and the commands.
    """
    limits, possible = settings.connections, open_files * 3 // 4
    if possible < limits.total:
        log.warning(
            "%d connections at once and no more: this process may open %d files",
            possible,
            open_files,
        )
    return ConnectionLimiter(
        min(limits.total, possible), limits.each, TrustedProxies(settings.proxies)
    )


def open_file_limit() -> int:
    """The number of files that this process may open; a connection is one."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def raise_open_file_limit() -> int:
    """Raise the soft limit, usually 1,024, to the hard limit. Returns the limit from now on."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):  # the system's own ceiling has been lowered since
        return soft
    return hard


class Deadline:
    """A time limit that is set again and again, and the callback for when it has expired.

    One timer is kept. It is replaced only where it would fire too late; where it fires too early,
    it is set once more. So a busy connection hardly ever touches it.

    After a stall of the event loop its timers fire before it reads the sockets, which may hold
    what the deadline is for. So an expired deadline is postponed once, by as long as the timer was
    late: the loop reads what has come meanwhile.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, on_expiry: Callable[[], None]) -> None:
        self._loop = loop
        self._on_expiry = on_expiry
        self._duration = 1.0
        self._at = math.inf
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf

    def set(self, seconds: float) -> None:
        """Expire after so many seconds from now."""
        self._duration = seconds
        self._at = self._loop.time() + seconds
        if self._timer_at > self._at:
            self.cancel_timer()
            self._set_timer(seconds)

    def clear(self) -> None:
        """Expire never."""
        self._at = math.inf

    def cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def close(self) -> None:
        """Cancel the timer and drop the callback, so that no reference cycle stays."""
        self.cancel_timer()
        self._timer, self._on_expiry = None, _do_nothing

    def elapsed_share(self) -> float:
        """The part of the time that is used up; -1 where no time is set."""
        if self._at == math.inf:
            return -1.0
        return 1 - (self._at - self._loop.time()) / self._duration

    def _set_timer(self, seconds: float, postponed: float = math.inf) -> None:
        self._timer_at = self._loop.time() + seconds
        self._timer = self._loop.call_later(seconds, self._on_timer, postponed)

    def _on_timer(self, postponed: float) -> None:
        """Expire, if the time set is the one that was postponed; otherwise postpone."""
        self._timer, self._timer_at = None, math.inf
        late = self._loop.time() - self._at
        if late >= 0 and self._at == postponed:
            self._on_expiry()
        elif late >= 0:
            self._set_timer(max(LOOP_TURN, min(late, self._duration)), postponed=self._at)
        elif self._at < math.inf:
            self._set_timer(-late)


def _do_nothing() -> None:
    """The callback of a closed deadline."""
