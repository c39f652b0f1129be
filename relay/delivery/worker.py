"""The courier: takes one sink's deliveries from the store, sends them, writes how they ended.

A feeder claims due deliveries from the depot into a short queue; `concurrency` workers make a
trip to the sink with each batch; one more worker sees to the lane of opt-outs alone. What keeps a
sink from being tried stands in its hold: it is paused (somebody must act; a probe every five
minutes) or parked (by a Retry-After or the breaker), from which its recovery brings it back.
Nothing here sleeps for a retry: its time stands in the store, as the hold does.
"""

import asyncio
import contextlib
import logging
from typing import Any

from relay.clock import Clock, cancel_all
from relay.config.loader import SinkConfig
from relay.counters import SinkCounters
from relay.delivery import plugin_calls
from relay.delivery.attempt import Trips
from relay.delivery.gate import Hold
from relay.delivery.health_tracker import Lessons
from relay.delivery.plugin_calls import Call
from relay.delivery.policy import Judge
from relay.delivery.prefetcher import Feeder
from relay.delivery.priority_lane import Lane
from relay.delivery.prober import Recovery
from relay.delivery.queue import Depot
from relay.delivery.safe_quota import Allowance
from relay.delivery.sender import Dispatch, within
from relay.sink import Sink
from relay.store import SinkState, Store
from relay.tracing import Tracer

SAVE_ACTIVE_EVERY = 60.0
LEAST_TO_CLOSE = 1.0
"""Seconds that a sink has for its `close`, however long it took to stop."""


class Courier:
    """One sink's worker, from `start` to `stop`."""

    def __init__(
        self,
        config: SinkConfig,
        sink: Sink,
        store: Store,
        clock: Clock,
        state: SinkState,
        tracer: Tracer | None = None,
    ) -> None:
        self.sink = sink
        self._name = config.name
        self._over = 0.0
        self._concurrency = config.concurrency
        self._takes_consent = config.sink_class.takes_consent is not Sink.takes_consent
        self._clock = clock
        log = logging.getLogger(f"relay.sinks.{config.name}")
        self._depot = Depot(config, store, clock)
        self._hold = Hold(state, clock, self._depot.save, self._hold_changed, log)
        lessons = Lessons(config, self._hold, self._depot)
        self._trips = Trips(
            Dispatch(config, sink, clock, tracer, store.last_word),
            Judge(config, self._hold),
            lessons,
            self._hold,
            self._depot,
            clock,
            log,
        )
        self._recovery = Recovery(
            config, sink, self._hold, lessons, self._depot, self._trips, clock
        )
        self._lane = Lane(config.batch.size, self._depot, self._trips, self._hold, clock)
        self._quota = Allowance(config.name, sink, log)
        self._feeder = Feeder(
            config, self._quota, self._hold, self._depot, self._trips, self._lane, clock
        )
        self._feeding: list[asyncio.Task[None]] = []
        self._sending: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to work, in tasks of its own; `failure` tells when one of them ends."""
        self._feeding = [
            asyncio.create_task(self._feed()),
            asyncio.create_task(self._save_active()),
        ]
        self._sending = [asyncio.create_task(self._send_urgent())]
        self._sending += [asyncio.create_task(self._send()) for _ in range(self._concurrency)]

    async def failure(self) -> None:
        """Return, or raise what was raised, when any of its tasks ends by itself."""
        done, _ = await asyncio.wait(
            [*self._feeding, *self._sending], return_when=asyncio.FIRST_COMPLETED
        )
        for task in done:
            task.result()

    async def stop(self, grace: float) -> None:
        """Claim no more; give up what is still being sent after `grace` seconds.

        What has been claimed by then, the store puts back uncounted when it is closed.
        """
        self._over = self._clock.monotonic() + grace
        await cancel_all(self._feeding)
        self._feeder.empty()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._trips.over(), grace)
        await cancel_all(self._sending)
        await self._hold.stop()

    async def close(self) -> None:
        """Close the sink, in what is left of the grace, once all that it got is accounted for."""
        left = max(LEAST_TO_CLOSE, self._over - self._clock.monotonic())
        with contextlib.suppress(Exception):  # a plugin may raise anything; there is no next step
            await within(left, plugin_calls.run(Call(self._name, "close"), self.sink.close()))
        with contextlib.suppress(Exception):  # nor here
            await self.sink.http.aclose()

    async def deliver_accused(self) -> None:
        """Send, one at a time, what was in flight at several deaths of the process.

        Only a sink with any is opened for it: the others wait, and opening may take its time.
        """
        while not self._hold.left() and (claims := await self._depot.accused()):
            if not await self._recovery.open():
                await self._depot.put_back(claims)
                return
            await self._trips.make(claims)

    def wake(self, *, urgent: bool = False) -> None:
        """There is new work."""
        self._depot.rouse()
        if urgent:
            self._lane.rouse()

    async def pause(self, reason: str) -> None:
        """Deliver nothing until `resume`."""
        await self._hold.pause(reason, by_operator=True)

    async def resume(self) -> None:
        """Deliver again, whatever kept it from that."""
        await self._recovery.resume()

    def status(self) -> dict[str, Any]:
        """`state` (running, paused, parked), and `reason` and `until` unless it takes all.

        With a quota of which something is known, `quota` as well; `last_error` where the last
        attempt failed.
        """
        quota = _quota_view(self._quota.status())
        return quota | self._trips.failures.view() | self._hold.status()

    @property
    def breaker_open(self) -> bool:
        return self._hold.breaker_open

    @property
    def tally(self) -> SinkCounters:
        return self._trips.tally

    # its tasks

    async def _feed(self) -> None:
        """Claim what is due whenever there is room for it, unless the sink is halted."""
        while True:
            await self._recovery.until_well()
            self._hold.go()
            await self._feeder.feed()

    async def _send(self) -> None:
        while True:
            claims = await self._feeder.next()
            await self._lane.deliver()
            if self._feeder.halted():
                await self._depot.put_back(claims)
            else:
                await self._trips.make(claims)

    async def _send_urgent(self) -> None:
        """The reserved worker: opt-outs, and what must land before them."""
        await self._recovery.opened.wait()
        while True:
            await self._lane.next()
            if self._lane.waiting:
                await self._feeder.put_back()  # it may hold older deliveries of the contact
                await self._lane.deliver()
                self._depot.rouse()
            if self._takes_consent:
                await self._lane.deliver_consent()

    async def _save_active(self) -> None:
        while True:
            await self._clock.sleep(SAVE_ACTIVE_EVERY)
            await self._hold.save()

    def _hold_changed(self) -> None:
        self._depot.rouse()
        self._lane.look()


def _quota_view(quota: dict[str, Any]) -> dict[str, Any]:
    """As `status` shows it: with a reason while it keeps ordinary deliveries back."""
    if not quota:
        return {}
    used, most, until = quota["used"], quota["most"], quota.pop("until")
    if until is None:
        return {"quota": quota}
    much = "all" if most is None else f"{used} of {most}"
    reason = f"quota: {much} calls of the day used; only opt-outs go"
    return {"quota": quota, "reason": reason, "until": until}
