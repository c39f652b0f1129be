"""The recovery: opens a sink, and sees whether what has halted it is over."""

import asyncio

from relay.clock import Clock
from relay.config.loader import SinkConfig
from relay.delivery import plugin_calls
from relay.delivery.attempt import Trips
from relay.delivery.classify import lines, outcome_of
from relay.delivery.gate import Hold
from relay.delivery.health_tracker import Lessons
from relay.delivery.plugin_calls import Call
from relay.delivery.queue import Depot
from relay.delivery.sender import within
from relay.outcome import Delivered, Retry
from relay.sink import Mistake, Notice, Sink


class Recovery:
    """The recovery of one sink. `opened` is set for good when the sink is open."""

    def __init__(
        self,
        config: SinkConfig,
        sink: Sink,
        hold: Hold,
        lessons: Lessons,
        depot: Depot,
        trips: Trips,
        clock: Clock,
    ) -> None:
        self._config = config
        self._sink = sink
        self._hold = hold
        self._lessons = lessons
        self._depot = depot
        self._trips = trips
        self._clock = clock
        self._failed_to_open = False
        self.opened = asyncio.Event()

    async def until_well(self) -> None:
        """Return when the sink is open and nothing halts it; see to that until then."""
        while True:
            await self._hold.over()
            if not self.opened.is_set():
                await self.open()
            elif self._hold.paused:
                await self._probe()
            elif self._hold.breaker_open:
                await self._try_one()
            elif self._hold.parked:
                await self.resume()
            else:
                return

    async def open(self) -> bool:
        """Whether the sink is open; one that cannot be is paused, and opened at its next probe."""
        if self.opened.is_set():
            return True
        try:
            work = plugin_calls.run(Call(self._config.name, "open"), self._sink.open())
            await within(self._config.timeout, work)
        except Exception as error:  # noqa: BLE001  a plugin may raise anything
            self._failed_to_open = True
            outcome = outcome_of(error, self._clock.now())
            after = outcome.after
            if after is None and isinstance(outcome, Retry):  # a full disk, say: nobody mends it
                after = self._config.breaker.cooldown
            await self._hold.pause(f"it cannot be opened: {outcome.reason}", after=after)
            return False
        self.opened.set()
        if self._failed_to_open:
            await self._recovered()
        return True

    async def resume(self) -> None:
        """Deliver again, whatever kept it from that."""
        self._lessons.forget()
        await self._hold.lift()

    async def _probe(self) -> None:
        """See whether what paused the sink is over."""
        kind = type(self._sink)
        if kind.check is Sink.check or not kind.check_ends_pause:
            await self._try_one()
            return
        try:
            work = plugin_calls.run(Call(self._config.name, "check"), self._sink.check())
            found = await within(self._config.timeout, work)
            problems = [each for each in lines(found) if not isinstance(each, Mistake | Notice)]
        except Exception as error:  # noqa: BLE001  a check that fails is a problem found
            problems = [f"{type(error).__name__} in check()"]
        if problems:
            await self._hold.pause("; ".join(problems))
        else:
            await self._recovered()

    async def _try_one(self) -> None:
        """Try one delivery; if it lands, the sink is well again."""
        claimed = await self._depot.claim(1, urgent=None)
        if not claimed.claims:
            await self._depot.until_more(claimed)
            return
        (result,) = await self._trips.make(claimed.claims, trial=True)
        outcome = result.outcome
        if isinstance(outcome, Delivered):
            await self._recovered()
        elif self._hold.left():
            return  # what it learned from the outcome halts it
        elif self._hold.paused:
            await self._hold.pause(outcome.reason)
        else:
            await self._hold.park(f"still failing: {outcome.reason}", self._config.breaker.cooldown)

    async def _recovered(self) -> None:
        """Deliver again, unless the operator has paused the sink in the meantime."""
        if not self._hold.paused_by_operator:
            await self.resume()
