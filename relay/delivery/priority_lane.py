"""The lane: opt-outs, and what must land before them, go past all else."""

import asyncio

from relay.clock import Clock, wait_for_event
from relay.delivery.attempt import Trips
from relay.delivery.gate import Hold
from relay.delivery.queue import Depot


class Lane:
    """The lane of one sink. While `waiting`, there may be some in it: at the start nobody knows."""

    def __init__(self, limit: int, depot: Depot, trips: Trips, hold: Hold, clock: Clock) -> None:
        self._limit = limit
        self._depot = depot
        self._trips = trips
        self._hold = hold
        self._clock = clock
        self._look = asyncio.Event()
        self._look.set()
        self.waiting = True

    def rouse(self) -> None:
        """There may be some."""
        self.waiting = True
        self.look()

    def look(self) -> None:
        """Those that wait may perhaps go."""
        self._look.set()

    async def next(self) -> None:
        """Return when there is reason to look."""
        await self._look.wait()
        self._look.clear()

    async def quiet(self, seconds: float) -> None:
        """Let so many seconds pass, fewer when there is reason to look."""
        await wait_for_event(self._look, self._clock, seconds)

    async def deliver(self) -> None:
        """Send all that there are, unless others already do."""
        while self.waiting and not self._hold.left() and not self._hold.breaker_open:
            self.waiting = False
            claimed = await self._depot.claim(self._limit, urgent=True)
            self.waiting |= claimed.more
            await self._trips.make(claimed.claims)

    async def deliver_consent(self) -> None:
        """Send the words of consent alone, while the sink is paused but open to them."""
        while self._hold.open_to_consent:
            claims = await self._depot.claim_consent(self._limit)
            if not claims:
                return
            await self._trips.make(claims, consent_only=True)
