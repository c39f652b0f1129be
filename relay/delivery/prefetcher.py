"""The feeder: claims what is due for a sink, in batches, and no more than its workers take.

While the quota is short, it claims one by one, or leaves what is left of it to opt-outs.
"""

import asyncio

from relay.clock import Clock
from relay.config.loader import SinkConfig
from relay.delivery.attempt import Trips
from relay.delivery.gate import Hold
from relay.delivery.priority_lane import Lane
from relay.delivery.queue import CLAIM, Depot
from relay.delivery.safe_quota import Allowance
from relay.store import Claim, Claimed

LOOK_FOR_OPT_OUTS = 5.0
"""Seconds between looks for opt-outs that are due again, while only those may go."""
FILL_STEPS = 10
"""How often a batch that waits to fill looks for more."""


class Feeder:
    """The feeder of one sink. What it has claimed waits in a short queue for a free worker."""

    def __init__(
        self,
        config: SinkConfig,
        quota: Allowance,
        hold: Hold,
        depot: Depot,
        trips: Trips,
        lane: Lane,
        clock: Clock,
    ) -> None:
        self._batch = config.batch
        self._quota = quota
        self._hold = hold
        self._depot = depot
        self._trips = trips
        self._lane = lane
        self._clock = clock
        self._ready: asyncio.Queue[list[Claim]] = asyncio.Queue(config.concurrency)

    def halted(self) -> bool:
        """Whether nothing but opt-outs, at the most, is to be sent."""
        return self._hold.left() > 0 or self._quota.bulk_wait() > 0

    async def next(self) -> list[Claim]:
        """The next batch to send."""
        return await self._ready.get()

    async def feed(self) -> None:
        """Claim one round, or wait until there may be something to claim."""
        await self._send_suspects()
        if seconds := self._quota.bulk_wait():
            self._lane.rouse()
            await self._clock.sleep(min(seconds, LOOK_FOR_OPT_OUTS))
        elif self._quota.tight:
            await self._send_one()
        else:
            await self._claim_batches()

    async def put_back(self) -> None:
        """Empty the queue: what is in it goes later."""
        await self._depot.put_back(self.empty())

    def empty(self) -> list[Claim]:
        """Take all out of the queue."""
        claims: list[Claim] = []
        while not self._ready.empty():
            claims += self._ready.get_nowait()
        return claims

    async def _send_suspects(self) -> None:
        """What was in flight when a process died goes with nothing beside it.

        That is a batch at a time: singly, a kill under load would cost a CRM's calls of an hour.
        Should the process die again, those of this batch go one at a time.
        """
        while not self.halted() and (claims := await self._depot.suspects()):
            await self._trips.make(claims)

    async def _send_one(self) -> None:
        """Deliver one by itself: its answer tells whether the quota has room again."""
        claimed = await self._claim(1)
        await self._trips.make(claimed.claims)
        await self._depot.until_more(claimed)

    async def _claim_batches(self) -> None:
        size = self._batch.size
        room = self._ready.maxsize - self._ready.qsize()
        whole = CLAIM - CLAIM % size or CLAIM  # what is over would go as a small batch
        claimed = await self._claim(min(max(1, room) * size, whole))
        claims = claimed.claims
        filling = bool(claims) and len(claims) < size and self._batch.wait > 0 and not claimed.cut
        if filling:
            claims = await self._fill(claims)
        for start in range(0, len(claims), size):
            await self._ready.put(claims[start : start + size])
            if self.halted():
                await self._depot.put_back(claims[start + size :])
                await self.put_back()
                return
        if not filling:  # what is due has changed since
            await self._depot.until_more(claimed)

    async def _claim(self, limit: int) -> Claimed:
        """All but the urgent, of which the lane is told if there are any."""
        claimed = await self._depot.claim(limit)
        if claimed.urgent:
            self._lane.rouse()
        return claimed

    async def _fill(self, claims: list[Claim]) -> list[Claim]:
        """Let a batch grow for `batch.wait`, unless an opt-out comes: it may be of its contacts."""
        wait = self._batch.wait
        end = self._clock.monotonic() + wait
        while len(claims) < self._batch.size:
            left = end - self._clock.monotonic()
            if left <= 0 or self._lane.waiting:
                break
            await self._lane.quiet(min(left, wait / FILL_STEPS))
            claimed = await self._depot.claim(self._batch.size - len(claims))
            found = claimed.claims
            contacts = {claim.contact for claim in claims}
            claims = claims + [claim for claim in found if claim.contact not in contacts]
            # Only without an order can there be any of the same contact: those end the batch.
            if again := [claim for claim in found if claim.contact in contacts]:
                await self._depot.put_back(again)
            if again or claimed.cut:
                break
        return claims
