"""The courier: takes one sink's deliveries from the store, sends them, writes how they ended.

A feeder claims due deliveries into a short queue; `concurrency` workers send them; one more
worker sees to opt-outs alone. What keeps a sink from being tried stands in its SinkState, which
the store keeps: paused (somebody must act; a probe every five minutes) or parked (by a
Retry-After or the breaker). Nothing here sleeps for a retry: its time stands in the store too.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Any, TypeVar

from relay.breaker import Breaker, Streak
from relay.classify import outcome_of, readable
from relay.clock import Clock
from relay.config import SinkConfig
from relay.dispatch import STREAK, Dispatch, MapFailed, Result, within
from relay.hold import PROBE_EVERY, Hold
from relay.outcome import Delivered, Pause, Reject, Retry
from relay.quota import Quota
from relay.sink import Sink
from relay.store import Claim, Claimed, Settlement, SinkState, State, Store, StoreFull
from relay.tally import Deliveries
from relay.tracing import Traces
from relay.verdict import Judge, put_back

TRY_AGAIN = 1.0
"""Seconds between tries of a store that is full."""
SAVE_ACTIVE_EVERY = 60.0
LEAST_TO_CLOSE = 1.0
"""Seconds that a sink has for its `close`, however long it took to stop."""
CLAIM = 256
"""The most deliveries in one claim: callbacks wait for its transaction."""
LOOK_AGAIN = 0.1
"""Seconds between looks at what is due, while opt-outs wait for those that are being sent."""
LOOK_FOR_OPT_OUTS = 5.0
"""Seconds between looks for opt-outs that are due again, while only those may go."""
FILL_STEPS = 10
"""How often a batch that waits to fill looks for more."""
THROTTLED = 429
NO_QUOTA = Quota()
T = TypeVar("T")


class Courier:
    """One sink's worker, from `start` to `stop`."""

    def __init__(
        self,
        config: SinkConfig,
        sink: Sink,
        store: Store,
        clock: Clock,
        state: SinkState,
        traces: Traces | None = None,
    ) -> None:
        self.name = config.name
        self._config = config
        self._sink = sink
        self._store = store
        self._clock = clock
        log = logging.getLogger(f"relay.sinks.{self.name}")
        self._hold = Hold(state, clock, self._save, self._hold_changed, log)
        self._judge = Judge(config, self._hold)
        self._dispatch = Dispatch(config, sink, clock, traces)
        self.tally = Deliveries()
        self._breaker = Breaker(config.breaker.failures)
        self._streak = Streak(STREAK)
        self._ready: asyncio.Queue[list[Claim]] = asyncio.Queue(config.concurrency)
        self._work = asyncio.Event()
        self._urgent = asyncio.Event()
        self._changed = asyncio.Event()
        self._opt_out_waits = True
        self._opened = False
        self._open_failed = False
        self._suspects = True
        self._stopping = False
        self._sending = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._feeders: list[asyncio.Task[None]] = []
        self._workers: list[asyncio.Task[None]] = []

    # from outside

    def start(self) -> None:
        """Begin to work, in tasks of its own; `failure` tells when one of them ends."""
        self._feeders = [
            asyncio.create_task(self._feed()),
            asyncio.create_task(self._save_active()),
        ]
        self._workers = [asyncio.create_task(self._send_urgent())]
        self._workers += [
            asyncio.create_task(self._send_ready()) for _ in range(self._config.concurrency)
        ]

    async def failure(self) -> None:
        """Return, or raise what was raised, when any of its tasks ends by itself."""
        done, _ = await asyncio.wait(
            [*self._feeders, *self._workers], return_when=asyncio.FIRST_COMPLETED
        )
        for task in done:
            task.result()

    async def stop(self, grace: float) -> None:
        """Claim no more; what is still being sent after `grace` seconds is put back uncounted."""
        self._stopping = True
        end = self._clock.monotonic() + grace
        await _end(self._feeders)
        await self._empty_ready()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), grace)
        await _end(self._workers)
        await self._empty_ready()
        await self._hold.stop()
        with contextlib.suppress(Exception):  # a plugin may raise anything; there is no next step
            await within(max(LEAST_TO_CLOSE, end - self._clock.monotonic()), self._sink.close())
        with contextlib.suppress(Exception):  # nor here
            await self._sink.http.aclose()

    def wake(self, *, urgent: bool = False) -> None:
        """There is new work."""
        self._work.set()
        if urgent:
            self._rouse_urgent()

    def _rouse_urgent(self) -> None:
        self._opt_out_waits = True
        self._urgent.set()

    @property
    def sink(self) -> Sink:
        return self._sink

    def status(self) -> dict[str, Any]:
        """`state` (running, paused, parked), and `reason` and `until` unless it takes all.

        With a quota of which something is known, `quota` as well.
        """
        return _quota_view(self._quota.status()) | self._hold.status()

    @property
    def breaker_open(self) -> bool:
        return self._hold.breaker_open

    async def pause(self, reason: str) -> None:
        """Deliver nothing until `resume`."""
        await self._hold.pause(reason, by_operator=True)

    async def resume(self) -> None:
        """Deliver again, whatever kept it from that."""
        self._breaker.success()
        self._streak.end()
        await self._hold.lift()

    async def deliver_accused(self) -> None:
        """Send, one at a time, what was in flight at several deaths of the process.

        Only a sink with any is opened for it: the others wait, and opening may take its time.
        """
        while not self._hold.left() and (claims := await self._accused()):
            if not self._opened:
                await self._open()
            if not self._opened:
                await self._put_back(claims)
                return
            await self._deliver(claims)

    async def _open(self) -> None:
        """Open the sink; one that cannot be opened is paused, and opened at its next probe."""
        try:
            await within(self._config.timeout, self._sink.open())
        except Exception as error:  # noqa: BLE001  a plugin may raise anything
            self._open_failed = True
            outcome = outcome_of(error, self._clock.now())
            after = outcome.after
            if after is None and isinstance(outcome, Retry):  # a full disk, say: nobody mends it
                after = self._config.breaker.cooldown
            await self._hold.pause(f"it cannot be opened: {outcome.reason}", after=after)
        else:
            self._opened = True
            self._urgent.set()
            if self._open_failed:
                self._open_failed = False
                await self._recovered()

    # claiming

    async def _feed(self) -> None:
        """Claim what is due whenever there is room for it, unless the sink is halted."""
        while True:
            self._changed.clear()
            if halted := self._hold.left():
                await self._wait(self._changed, halted)
            elif not self._opened:
                await self._open()
            elif self._hold.paused:
                await self._probe()
            elif self._hold.breaker_open:
                await self._try_one()
            elif self._hold.parked:
                await self.resume()
            else:
                self._hold.go()
                await self._deliver_suspects()
                await self._claim_by_quota()

    @property
    def _quota(self) -> Quota:
        """The sink's; a plugin may put anything there, at any time."""
        quota = self._sink.quota
        return quota if isinstance(quota, Quota) else NO_QUOTA

    def _ordinary_halted(self) -> bool:
        return self._hold.left() > 0 or self._quota.bulk_wait() > 0

    async def _claim_by_quota(self) -> None:
        """What is left of the quota may be for opt-outs, which the urgent worker sees to."""
        if seconds := self._quota.bulk_wait():
            self._rouse_urgent()
            await self._wait(self._changed, min(seconds, LOOK_FOR_OPT_OUTS))
        elif self._quota.tight:
            await self._claim_one()
        else:
            await self._claim_some()

    async def _claim_one(self) -> None:
        """Deliver one by itself: its answer tells whether the quota has room again."""
        self._work.clear()
        claimed = await self._claim_ordinary(1)
        await self._deliver(claimed.claims)
        await self._until_more(claimed)

    async def _claim_some(self) -> None:
        """Claim one round of batches into the queue, or wait until there may be some."""
        self._work.clear()
        size = self._config.batch.size
        room = self._ready.maxsize - self._ready.qsize()
        whole = CLAIM - CLAIM % size or CLAIM  # what is over would go as a small batch
        claimed = await self._claim_ordinary(min(max(1, room) * size, whole))
        claims = claimed.claims
        filling = bool(claims) and len(claims) < size and self._config.batch.wait > 0
        if filling:
            claims = await self._fill(claims)
        for start in range(0, len(claims), size):
            await self._ready.put(claims[start : start + size])
            if self._ordinary_halted():
                await self._put_back(claims[start + size :])
                await self._empty_ready()
                return
        if not filling:  # what is due has changed since
            await self._until_more(claimed)

    async def _until_more(self, claimed: Claimed) -> None:
        """After a claim that took all there was, wait until there may be something."""
        if not claimed.more:
            # What is urgent is due, too, but not for the feeder to claim: it must not spin on it.
            soonest = LOOK_AGAIN if claimed.urgent else 0.0
            await self._wait(self._work, max(soonest, self._until_due(claimed)))

    async def _claim(self, limit: int, *, urgent: bool | None) -> Claimed:
        ordered = self._config.order == "contact"
        return await self._with_space(
            lambda: self._store.claim(self.name, limit, ordered=ordered, urgent=urgent)
        )

    async def _claim_ordinary(self, limit: int) -> Claimed:
        """All but the urgent, whose worker is told if there are any."""
        claimed = await self._claim(limit, urgent=False)
        if claimed.urgent:
            self._rouse_urgent()
        return claimed

    async def _fill(self, claims: list[Claim]) -> list[Claim]:
        """Let a batch grow for `batch.wait`, unless an opt-out comes: it may be of its contacts."""
        wait = self._config.batch.wait
        end = self._clock.monotonic() + wait
        while len(claims) < self._config.batch.size:
            left = end - self._clock.monotonic()
            if left <= 0 or self._opt_out_waits:
                break
            await self._wait(self._urgent, min(left, wait / FILL_STEPS))
            room = min(self._config.batch.size - len(claims), CLAIM)
            found = (await self._claim(room, urgent=False)).claims
            contacts = {claim.contact for claim in claims}
            claims = claims + [claim for claim in found if claim.contact not in contacts]
            # Only without an order can there be any of the same contact: those end the batch.
            if again := [claim for claim in found if claim.contact in contacts]:
                await self._put_back(again)
                break
        return claims

    def _until_due(self, claimed: Claimed) -> float:
        """Seconds until the next delivery is due; a long time without one."""
        return PROBE_EVERY if claimed.due is None else self._hold.seconds_until(claimed.due)

    async def _with_space(self, ask: Callable[[], Awaitable[T]]) -> T:
        """What the store answers as soon as its disk is not full."""
        while True:
            try:
                return await ask()
            except StoreFull:
                await self._clock.sleep(TRY_AGAIN)

    # sending

    async def _send_ready(self) -> None:
        while True:
            claims = await self._ready.get()
            await self._deliver_urgent()
            if self._ordinary_halted():
                await self._put_back(claims)
                self._work.set()
            else:
                await self._deliver(claims)

    async def _send_urgent(self) -> None:
        """The reserved worker: opt-outs, and what must land before them."""
        while True:
            await self._urgent.wait()
            self._urgent.clear()
            if self._opt_out_waits and self._opened:
                await self._empty_ready()  # it may hold older deliveries of the contact
                await self._deliver_urgent()
                self._work.set()

    async def _deliver_urgent(self) -> None:
        """Send all that is urgent, unless others already do."""
        while self._opt_out_waits and not self._hold.left() and not self._hold.breaker_open:
            self._opt_out_waits = False
            claimed = await self._claim(min(self._config.batch.size, CLAIM), urgent=True)
            self._opt_out_waits |= claimed.more
            await self._deliver(claimed.claims)

    async def _deliver_suspects(self) -> None:
        """What was in flight when a process died goes with nothing beside it.

        That is a batch at a time: singly, a kill under load would cost a CRM's calls of an hour.
        Should the process die again, those of this batch go one at a time.
        """
        claim = partial(self._store.claim_suspects, self.name, self._config.batch.size)
        while self._suspects and not self._ordinary_halted():
            claims = await self._with_space(claim)
            await self._deliver(claims)
            self._suspects = bool(claims)

    async def _accused(self) -> list[Claim]:
        with contextlib.suppress(StoreFull):  # the start does not wait: the feeder comes to it
            return await self._store.claim_suspects(self.name, accused=True)
        return []

    async def _deliver(self, claims: list[Claim], *, trial: bool = False) -> list[Result]:
        """Send a batch and write how it ended."""
        if not claims or (self._hold.left() and not trial):
            await self._put_back(claims)
            return []
        self._sending += 1
        self._idle.clear()
        try:
            results = await self._dispatch.send(claims)
            await self._conclude(results, trial=trial)
        except asyncio.CancelledError:
            await self._put_back(claims)
            raise
        else:
            return results
        finally:
            self._sending -= 1
            if not self._sending:
                self._idle.set()

    # concluding

    async def _conclude(self, results: Sequence[Result], *, trial: bool) -> None:
        settlements = [self._judge.settlement(result, trial=trial) for result in results]
        await self._settle(settlements)
        if any(settlement.state == State.WAITING for settlement in settlements):
            self._work.set()  # the feeder has perhaps a sooner time to wait for
        now = self._clock.now()
        for result, settlement in zip(results, settlements, strict=True):
            self.tally.concluded(result, settlement, now)
            await self._learn(result, trial=trial)

    async def _learn(self, result: Result, *, trial: bool) -> None:
        """What a result says about the sink itself."""
        claim, outcome = result.claim, result.outcome
        match outcome:
            case Delivered():
                self._breaker.success()
                self._streak.end()
            case Pause():
                await self._hold.pause(outcome.reason, after=outcome.after)
            case Retry(after=(float() | int()) as after):
                await self._hold.park(f"asked to wait: {outcome.reason}", after)
            case Retry() if outcome.status != THROTTLED and not trial:
                if self._breaker.failure(claim.contact):
                    reason = f"{self._config.breaker.failures} contacts failed in a row"
                    await self._hold.open_breaker(
                        f"{reason}, the last with: {outcome.reason}", self._config.breaker.cooldown
                    )
            case Reject() if not trial:
                await self._learn_from_refusal(claim, outcome)
            case _:
                pass

    async def _learn_from_refusal(self, claim: Claim, outcome: Reject) -> None:
        cause = MapFailed if isinstance(outcome, MapFailed) else outcome.status
        if cause is None:
            return
        if streak := self._streak.refusal(cause, claim.contact, claim.seq):
            await self._hold.pause(f"{STREAK} contacts in a row were refused: {outcome.reason}")
            await self._with_space(lambda: self._store.revive(self.name, streak, replayed=False))

    async def _settle(self, settlements: Sequence[Settlement]) -> None:
        """Write until it is written: a full disk must not send anything twice.

        Only a stop gives up: what is still in flight then comes again after the next start.
        """
        while True:
            try:
                await self._store.settle(settlements)
            except StoreFull:
                if self._stopping:
                    return
                await self._clock.sleep(TRY_AGAIN)
            else:
                return

    async def _put_back(self, claims: Sequence[Claim]) -> None:
        if claims:
            await self._settle([put_back(claim) for claim in claims])

    async def _empty_ready(self) -> None:
        claims: list[Claim] = []
        while not self._ready.empty():
            claims += self._ready.get_nowait()
        await self._put_back(claims)

    # halting

    def _hold_changed(self) -> None:
        self._changed.set()
        self._work.set()
        self._urgent.set()

    async def _save(self, state: SinkState) -> None:
        with contextlib.suppress(StoreFull):
            await self._store.save_sink_state(self.name, state)

    async def _save_active(self) -> None:
        while True:
            await self._clock.sleep(SAVE_ACTIVE_EVERY)
            await self._hold.save()

    async def _probe(self) -> None:
        """See whether what paused the sink is over."""
        if type(self._sink).check is Sink.check:
            await self._try_one()
            return
        try:
            found = await within(self._config.timeout, self._sink.check())
            problems = [readable(each) for each in found or ()]
        except Exception as error:  # noqa: BLE001  a check that fails is a problem found
            problems = [f"{type(error).__name__} in check()"]
        if problems:
            await self._hold.pause("; ".join(problems))
        else:
            await self._recovered()

    async def _try_one(self) -> None:
        """Try one ordinary delivery; if it lands, the sink is well again."""
        self._work.clear()
        claimed = await self._claim(1, urgent=None)
        if not claimed.claims:
            await self._until_more(claimed)
            return
        (result,) = await self._deliver(claimed.claims, trial=True)
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

    async def _wait(self, event: asyncio.Event, seconds: float) -> None:
        """Until the event is set, or so many seconds have passed."""
        if seconds == float("inf"):
            await event.wait()
            return
        tasks = {
            asyncio.ensure_future(event.wait()),
            asyncio.ensure_future(self._clock.sleep(seconds)),
        }
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await _end(tasks)


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


async def _end(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel the tasks and wait until they are over."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
