"""One sink's worker: claims its deliveries, sends them, and settles how they ended.

One task claims batches into the queue's short list of prefetched ones. `concurrency` tasks send
these. One more task sends only urgent deliveries. Every task asks the gate before it sends. No task
sleeps for a retry: the store keeps when a retry is due. It keeps the gate's state, too.
"""

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from relay.clock import Clock, cancel_all
from relay.config.sinks import SinkConfig
from relay.counters import SinkCounters
from relay.delivery import plugin_calls
from relay.delivery.breaker import FailureLog
from relay.delivery.gate import Prober, SinkGate, SinkStatus
from relay.delivery.plugin_calls import PluginCall, run_with_timeout
from relay.delivery.policy import Result, RetryPolicy, SendKind, settlement
from relay.delivery.queue import DeliveryQueue
from relay.delivery.safe_quota import SafeQuota
from relay.delivery.sender import Sender
from relay.outcome import Outcome, word_of
from relay.sink import Sink
from relay.store import Claim, Settlement, SinkState
from relay.store.port import Store
from relay.tracing import Tracer

SAVE_ACTIVE_EVERY = 60.0
LEAST_TO_CLOSE = 1.0
"""The least seconds that a sink has for its `close`, even if the grace is over."""
OPT_OUT_POLL = 5.0
"""Seconds between two claims of opt-outs, while the quota has room for those alone."""


class SinkWorker:
    """The worker of one sink, from `start` to `stop`."""

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
        self.counters = SinkCounters()
        self._name = config.name
        self._concurrency = config.concurrency
        self._takes_consent = config.sink_class.takes_consent is not Sink.takes_consent
        self._clock = clock
        self._log = logging.getLogger(f"relay.sinks.{config.name}")
        self._queue = DeliveryQueue(config, store, clock)
        self._gate = SinkGate(
            config,
            state,
            SafeQuota(config.name, sink, self._log),
            clock,
            self._queue.save,
            self._queue.gate_changed,
        )
        self._prober = Prober(config, sink, self._gate, clock, self._try_one)
        self._sender = Sender(config, sink, clock, tracer, store.last_word)
        self._retry = RetryPolicy(
            config.retry.initial, config.retry.max, config.retry.attempts, config.retry.window
        )
        self._failures = FailureLog(clock, self._log)
        self._under_way = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._stopped_by = 0.0
        self._fetching: list[asyncio.Task[None]] = []
        self._sending: list[asyncio.Task[None]] = []

    # from start to stop

    def start(self) -> None:
        """Start the tasks. `failure` returns when one of them ends."""
        self._fetching = [
            asyncio.create_task(self._fetch()),
            asyncio.create_task(self._save_active()),
        ]
        self._sending = [asyncio.create_task(self._send_urgent())]
        self._sending += [asyncio.create_task(self._send()) for _ in range(self._concurrency)]

    async def failure(self) -> None:
        """Wait until any of the tasks ends by itself. Raises what the task raised."""
        done, _ = await asyncio.wait(
            [*self._fetching, *self._sending], return_when=asyncio.FIRST_COMPLETED
        )
        for task in done:
            task.result()

    async def stop(self, grace: float) -> None:
        """Claim no more. Cancel what is still being sent after `grace` seconds.

        Claims that are not settled by then stay in flight. The store puts them back when it is
        closed; their attempt does not count.
        """
        self._stopped_by = self._clock.monotonic() + grace
        await cancel_all(self._fetching)
        self._queue.take_prefetched()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), grace)
        await cancel_all(self._sending)
        await self._gate.stop()

    async def close(self) -> None:
        """Close the sink within the rest of the grace. Call it when all it sent is settled."""
        left = max(LEAST_TO_CLOSE, self._stopped_by - self._clock.monotonic())
        with contextlib.suppress(Exception):  # a plugin may raise anything; there is no next step
            work = plugin_calls.run(PluginCall(self._name, "close"), self.sink.close())
            await run_with_timeout(left, work)
        with contextlib.suppress(Exception):  # nor here
            await self.sink.http.aclose()

    async def deliver_after_repeated_crash(self) -> None:
        """Send, one at a time, what was in flight at two crashes of the process or more.

        The other sinks wait for this. Opening can take long, so a sink is opened here only if it
        has such deliveries.
        """
        while self._gate.may_send(SendKind.AFTER_CRASH):
            claims = await self._queue.claim_after_repeated_crash()
            if not claims:
                return
            if not await self._prober.open_sink():
                await self._queue.put_back(claims)
                return
            await self.deliver(claims, SendKind.AFTER_CRASH)

    # from outside

    def wake(self, *, urgent: bool = False) -> None:
        """Notify of new deliveries."""
        self._queue.notify(urgent=urgent)

    async def pause(self, reason: str) -> None:
        """Deliver nothing until `resume`."""
        await self._gate.pause(reason, by_operator=True)

    async def resume(self) -> None:
        """End every halt of the sink."""
        await self._gate.resume()

    def status(self) -> SinkStatus:
        """The gate's status, with the last failed attempt."""
        return replace(self._gate.status(), last_error=self._failures.last)

    @property
    def breaker_open(self) -> bool:
        return self._gate.breaker_open

    # sending to the sink

    async def deliver(self, claims: Sequence[Claim], kind: SendKind) -> list[Result]:
        """Send a batch and settle it. Put it back if the gate allows no claims of this kind.

        Several calls may run at once. A cancelled call leaves its claims in flight: the store puts
        them back when it is closed.
        """
        if not claims or not self._gate.may_send(kind):
            await self._queue.put_back(claims)
            return []
        self._under_way += 1
        self._idle.clear()
        try:
            results = await self._sender.send(claims, consent_only=kind is SendKind.CONSENT)
            await self._settle(results, kind)
            return results
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._idle.set()

    async def _settle(self, results: Sequence[Result], kind: SendKind) -> None:
        moment = self._gate.moment()
        settlements = [settlement(each, self._retry, moment, kind) for each in results]
        await self._queue.settle(settlements)
        self._count(results, settlements)
        if kind is SendKind.CONSENT:
            if any(each.is_put_back and not each.consent for each in settlements):
                self._gate.suspend_consent()
        else:
            revive = await self._gate.observe(results, trial=kind is SendKind.TRIAL)
            await self._queue.revive(revive)

    def _count(self, results: Sequence[Result], settlements: Sequence[Settlement]) -> None:
        now = self._clock.now()
        verbose = self._log.isEnabledFor(logging.DEBUG)
        for result, settled in zip(results, settlements, strict=True):
            self.counters.attempted(
                result.outcome, result.duration, settled.state, _since_receipt(result, now)
            )
            if verbose:
                outcome = ": ".join(filter(None, (word_of(result.outcome), settled.error)))
                claim = result.claim
                self._log.debug("%s: attempt %d: %s", claim.event.id, claim.attempt, outcome)
        self._failures.observe(result.outcome for result in results)

    async def _deliver_urgent(self) -> None:
        """Send urgent deliveries until none is left. Several tasks may do so at once."""
        while self._queue.has_urgent and self._gate.may_send(SendKind.URGENT):
            await self.deliver(await self._queue.claim_urgent(), SendKind.URGENT)

    async def _deliver_consent(self) -> None:
        """Send only the words of consent, while the sink is paused and the gate allows them."""
        while self._gate.may_send(SendKind.CONSENT):
            claims = await self._queue.claim_consent()
            if not claims:
                return
            await self.deliver(claims, SendKind.CONSENT)

    async def _try_one(self) -> Outcome | None:
        """Send one delivery as a trial; None where there was none to send."""
        claimed = await self._queue.claim(1, urgent=None)
        if not claimed.claims:
            await self._queue.wait_for_more(claimed)
            return None
        results = await self.deliver(claimed.claims, SendKind.TRIAL)
        return results[0].outcome if results else None

    # the tasks

    async def _fetch(self) -> None:
        """Claim what is due while the sink is running, as far as quota and prefetch allow."""
        while True:
            await self._prober.until_running()
            self._gate.resume_clock()
            await self._deliver_after_crash()
            if seconds := self._gate.quota_wait():
                self._queue.notify_urgent()
                await self._clock.sleep(min(seconds, OPT_OUT_POLL))
            elif self._gate.quota_tight:
                claimed = await self._queue.claim_ordinary(1)
                await self.deliver(claimed.claims, SendKind.ORDINARY)
                await self._queue.wait_for_more(claimed)
            else:
                await self._queue.prefetch(self._may_send_ordinary)

    async def _deliver_after_crash(self) -> None:
        """Send what was in flight when a process crashed, before any ordinary delivery.

        They are sent in batches: after a kill under load, single sends could use up a CRM's calls
        of an hour. If the process crashes again, `deliver_after_repeated_crash` sends those of this
        batch singly.
        """
        while self._may_send_ordinary() and (claims := await self._queue.claim_after_crash()):
            await self.deliver(claims, SendKind.AFTER_CRASH)

    def _may_send_ordinary(self) -> bool:
        return self._gate.may_send(SendKind.ORDINARY)

    async def _send(self) -> None:
        while True:
            claims = await self._queue.next_batch()
            await self._deliver_urgent()
            await self.deliver(claims, SendKind.ORDINARY)

    async def _send_urgent(self) -> None:
        """The task that sends only opt-outs, and the older deliveries of their contacts."""
        await self._prober.sink_opened.wait()
        while True:
            await self._queue.wait_for_urgent()
            if self._queue.has_urgent:
                # The prefetched batches may hold older deliveries of the same contact.
                await self._queue.put_back(self._queue.take_prefetched())
                await self._deliver_urgent()
                self._queue.notify()
            if self._takes_consent:
                await self._deliver_consent()

    async def _save_active(self) -> None:
        while True:
            await self._clock.sleep(SAVE_ACTIVE_EVERY)
            await self._gate.save()


def _since_receipt(result: Result, now: float) -> float | None:
    """Seconds since the callback was received; None for a replay."""
    if result.claim.replayed:
        return None
    return now - datetime.fromisoformat(result.claim.event.time).timestamp()
