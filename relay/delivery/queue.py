"""One sink's queue in the store: claims, settles and puts back, and prefetches batches.

What the store cannot do while its disk is full is tried again once a second.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import ParamSpec, TypeVar

from relay.clock import MICROSECONDS, Clock, wait_for_event
from relay.config.sinks import SinkConfig
from relay.store import Claim, ClaimResult, Settlement, SinkState, State, StoreFull
from relay.store.port import Store

CLAIM = 256
"""The most deliveries in one claim: callbacks wait for its transaction."""
TRY_AGAIN = 1.0
"""Seconds between tries of a store that is full."""
URGENT_POLL = 0.1
"""Seconds between two claims while opt-outs wait for those that are being sent."""
LONGEST_POLL = 300.0
"""The most seconds between two claims, as the clock may jump."""
FILL_STEPS = 10
"""How often a batch claims more while it waits to fill."""
P = ParamSpec("P")
T = TypeVar("T")


class DeliveryQueue:
    """The queue of one sink. `notify` wakes who waits for work.

    Batches of ordinary deliveries are prefetched for the tasks that send. While `has_urgent`,
    there may be urgent deliveries: at the start that is not known.
    """

    def __init__(self, config: SinkConfig, store: Store, clock: Clock) -> None:
        self._name = config.name
        self._ordered = config.order == "contact"
        self._batch = config.batch
        self._store = store
        self._clock = clock
        self._work = asyncio.Event()
        self._urgent_work = asyncio.Event()
        self._urgent_work.set()
        self._more_after_crash = True
        self._ready: asyncio.Queue[list[Claim]] = asyncio.Queue(config.concurrency)
        self.has_urgent = True

    # waiting for work

    def notify(self, *, urgent: bool = False) -> None:
        """There may be something to claim."""
        self._work.set()
        if urgent:
            self.notify_urgent()

    def notify_urgent(self) -> None:
        """There may be something urgent to claim."""
        self.has_urgent = True
        self._urgent_work.set()

    def gate_changed(self) -> None:
        """The gate has changed: notify the tasks that wait."""
        self._work.set()
        self._urgent_work.set()

    async def wait_for_urgent(self) -> None:
        """Return when something urgent may be sent."""
        await self._urgent_work.wait()
        self._urgent_work.clear()

    async def wait_for_more(self, claimed: ClaimResult) -> None:
        """After a claim that took all there was, wait until there may be something."""
        if claimed.more:
            return
        # What is urgent is due, too, but not for the task that waits here: it must not spin on it.
        soonest = URGENT_POLL if claimed.urgent else 0.0
        await wait_for_event(self._work, self._clock, max(soonest, self._until_due(claimed)))

    # claims

    async def claim(self, limit: int, *, urgent: bool | None = False) -> ClaimResult:
        """Claim what is due: the ordinary ones or the `urgent`; with None both."""
        if not urgent:
            self._work.clear()
        limit = min(limit, CLAIM)
        return await self._with_space(
            self._store.claim, self._name, limit, ordered=self._ordered, urgent=urgent
        )

    async def claim_ordinary(self, limit: int) -> ClaimResult:
        """Claim all but the urgent, and notify of those."""
        claimed = await self.claim(limit)
        if claimed.urgent:
            self.notify_urgent()
        return claimed

    async def claim_urgent(self) -> list[Claim]:
        """Claim a batch of the urgent."""
        self.has_urgent = False
        claimed = await self.claim(self._batch.size, urgent=True)
        self.has_urgent |= claimed.more
        return claimed.claims

    async def claim_consent(self) -> list[Claim]:
        """Claim opt-outs that the sink has not accepted, whatever is older of their contacts."""
        limit = min(self._batch.size, CLAIM)
        return await self._with_space(self._store.claim_consent, self._name, limit)

    async def claim_after_crash(self) -> list[Claim]:
        """Claim a batch of what was in flight when a process crashed, until none is left."""
        if not self._more_after_crash:
            return []
        claims = await self._with_space(self._store.claim_after_crash, self._name, self._batch.size)
        self._more_after_crash = bool(claims)
        return claims

    async def claim_after_repeated_crash(self) -> list[Claim]:
        """Claim one that was in flight at several crashes."""
        with contextlib.suppress(StoreFull):  # the start does not wait: it is claimed later
            return await self._store.claim_after_crash(self._name, only_repeated=True)
        return []

    # settlements

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        """Write until it is written: with a full disk, nothing may be sent twice."""
        await self._with_space(self._store.settle, settlements)
        if any(each.state is State.WAITING for each in settlements):
            self.notify()  # there is perhaps a sooner time to wait for

    async def put_back(self, claims: Sequence[Claim]) -> None:
        """Settle claims as if they had never been made."""
        if claims:
            await self.settle([Settlement.put_back(c.sink, c.seq, c.failed_at) for c in claims])

    async def revive(self, seqs: Sequence[int]) -> None:
        """Retry dead deliveries whose rejects the configuration caused."""
        if seqs:
            await self._with_space(self._store.retry_dead, self._name, seqs, replayed=False)

    async def save(self, state: SinkState) -> None:
        """Save what halts the sink, unless the disk is full: it is saved again every minute."""
        with contextlib.suppress(StoreFull):
            await self._store.save_sink_state(self._name, state)

    # prefetched batches

    async def next_batch(self) -> list[Claim]:
        """The next prefetched batch."""
        return await self._ready.get()

    async def prefetch(self, may_send: Callable[[], bool]) -> None:
        """Claim batches for free senders, or wait until there may be something to claim."""
        size = self._batch.size
        room = self._ready.maxsize - self._ready.qsize()
        whole = CLAIM - CLAIM % size or CLAIM  # what is over would go as a small batch
        claimed = await self.claim_ordinary(min(max(1, room) * size, whole))
        claims = claimed.claims
        filling = bool(claims) and len(claims) < size and self._batch.wait > 0 and not claimed.cut
        if filling:
            claims = await self._fill(claims)
        for start in range(0, len(claims), size):
            await self._ready.put(claims[start : start + size])
            if not may_send():
                await self.put_back(claims[start + size :])
                await self.put_back(self.take_prefetched())
                return
        if not filling:  # what is due has changed since
            await self.wait_for_more(claimed)

    def take_prefetched(self) -> list[Claim]:
        """Take all prefetched batches."""
        claims: list[Claim] = []
        while not self._ready.empty():
            claims += self._ready.get_nowait()
        return claims

    async def _fill(self, claims: list[Claim]) -> list[Claim]:
        """Let a batch grow for `batch.wait`, unless an opt-out comes: it may be of its contacts."""
        wait = self._batch.wait
        end = self._clock.monotonic() + wait
        while len(claims) < self._batch.size:
            left = end - self._clock.monotonic()
            if left <= 0 or self.has_urgent:
                break
            await wait_for_event(self._urgent_work, self._clock, min(left, wait / FILL_STEPS))
            claimed = await self.claim(self._batch.size - len(claims))
            found = claimed.claims
            contacts = {claim.contact for claim in claims}
            claims = claims + [claim for claim in found if claim.contact not in contacts]
            # Only without an order can there be any of the same contact: those end the batch.
            if again := [claim for claim in found if claim.contact in contacts]:
                await self.put_back(again)
            if again or claimed.cut:
                break
        return claims

    def _until_due(self, claimed: ClaimResult) -> float:
        """Seconds until the next delivery is due, at most LONGEST_POLL."""
        if claimed.due is None:
            return LONGEST_POLL
        return min(max(0.0, claimed.due / MICROSECONDS - self._clock.now()), LONGEST_POLL)

    async def _with_space(
        self, ask: Callable[P, Awaitable[T]], *arguments: P.args, **named: P.kwargs
    ) -> T:
        """Call the store, again and again while its disk is full."""
        while True:
            try:
                return await ask(*arguments, **named)
            except StoreFull:
                await self._clock.sleep(TRY_AGAIN)
