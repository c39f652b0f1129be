"""The depot: one sink's part of the store, where its deliveries are fetched and accounted for.

What the store cannot do while its disk is full waits here until it can.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import ParamSpec, TypeVar

from relay.clock import MICROSECONDS, Clock, wait_for_event
from relay.config.loader import SinkConfig
from relay.store import Claim, Claimed, Settlement, SinkState, State, Store, StoreFull

CLAIM = 256
"""The most deliveries in one claim: callbacks wait for its transaction."""
TRY_AGAIN = 1.0
"""Seconds between tries of a store that is full."""
LOOK_AGAIN = 0.1
"""Seconds between looks at what is due, while opt-outs wait for those that are being sent."""
LOOK_ANYWAY = 300.0
"""The most seconds between looks: the clock that says what is due may jump."""
P = ParamSpec("P")
T = TypeVar("T")


class Depot:
    """The depot of one sink. `rouse` tells it of new work."""

    def __init__(self, config: SinkConfig, store: Store, clock: Clock) -> None:
        self._name = config.name
        self._ordered = config.order == "contact"
        self._batch = config.batch.size
        self._store = store
        self._clock = clock
        self._work = asyncio.Event()
        self._suspects = True

    def rouse(self) -> None:
        """There may be something to claim."""
        self._work.set()

    async def claim(self, limit: int, *, urgent: bool | None = False) -> Claimed:
        """Take what is due: the ordinary ones or the `urgent`; with None both."""
        if not urgent:
            self._work.clear()
        limit = min(limit, CLAIM)
        return await self._with_space(
            self._store.claim, self._name, limit, ordered=self._ordered, urgent=urgent
        )

    async def claim_consent(self, limit: int) -> list[Claim]:
        """Take opt-outs that the sink has not accepted, whatever is older of their contacts."""
        return await self._with_space(self._store.claim_consent, self._name, min(limit, CLAIM))

    async def until_more(self, claimed: Claimed) -> None:
        """After a claim that took all there was, wait until there may be something."""
        if claimed.more:
            return
        # What is urgent is due, too, but not for the feeder to claim: it must not spin on it.
        soonest = LOOK_AGAIN if claimed.urgent else 0.0
        await wait_for_event(self._work, self._clock, max(soonest, self._until_due(claimed)))

    async def suspects(self) -> list[Claim]:
        """The next of what was in flight when a process died; asked for until none is left."""
        if not self._suspects:
            return []
        claims = await self._with_space(self._store.claim_suspects, self._name, self._batch)
        self._suspects = bool(claims)
        return claims

    async def accused(self) -> list[Claim]:
        """One that was in flight at several deaths of the process."""
        with contextlib.suppress(StoreFull):  # the start does not wait: the feeder comes to it
            return await self._store.claim_suspects(self._name, accused=True)
        return []

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        """Write until it is written: a full disk must not send anything twice."""
        await self._with_space(self._store.settle, settlements)
        if any(each.state is State.WAITING for each in settlements):
            self.rouse()  # there is perhaps a sooner time to wait for

    async def put_back(self, claims: Sequence[Claim]) -> None:
        """As if they had never been claimed."""
        if claims:
            await self.settle([Settlement.put_back(c.sink, c.seq, c.failed_at) for c in claims])

    async def revive(self, seqs: Sequence[int]) -> None:
        """Dead deliveries go again: they were not to blame."""
        await self._with_space(self._store.revive, self._name, seqs, replayed=False)

    async def save(self, state: SinkState) -> None:
        """Keep what halts the sink, unless the disk is full: it is kept again every minute."""
        with contextlib.suppress(StoreFull):
            await self._store.save_sink_state(self._name, state)

    def _until_due(self, claimed: Claimed) -> float:
        """Seconds until the next delivery is due, or until a look is due anyway."""
        if claimed.due is None:
            return LOOK_ANYWAY
        return min(max(0.0, claimed.due / MICROSECONDS - self._clock.now()), LOOK_ANYWAY)

    async def _with_space(
        self, ask: Callable[P, Awaitable[T]], *arguments: P.args, **named: P.kwargs
    ) -> T:
        """What the store answers as soon as its disk is not full."""
        while True:
            try:
                return await ask(*arguments, **named)
            except StoreFull:
                await self._clock.sleep(TRY_AGAIN)
