"""The gate of one sink: whether it may be sent to, kept in the store over restarts.

A sink is running, paused or parked. Both a pause and a park halt it. A pause has a cause that an
operator must repair, or an operator asked for it. A park follows a Retry-After or the open breaker.

When a pause is due, the prober makes a check or a trial, and ends the pause if that succeeds. When
the breaker's park is due, it makes a trial. It ends any other park without one. Only `resume` ends
an operator's pause. The time for which a sink is halted does not count for the retry window of a
delivery.
"""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from relay.clock import MICROSECONDS, Clock, Stopwatch, wait_for_event
from relay.config.sinks import SinkConfig
from relay.delivery import plugin_calls
from relay.delivery.breaker import Halt, HaltKind, HealthTracker, LastError
from relay.delivery.classify import LONGEST_WAIT, lines, outcome_of
from relay.delivery.plugin_calls import PluginCall, run_with_timeout
from relay.delivery.policy import Moment, Result, SendKind
from relay.delivery.safe_quota import SafeQuota
from relay.outcome import Delivered, Outcome, Retry
from relay.redact import mask_all
from relay.sink import Mistake, Notice, Sink
from relay.store import SinkState

PROBE_EVERY = 300.0
STEADY = 600.0
"""After so many seconds in which the sink was not halted, its crashes are reset."""
MARGIN = 1.0
"""Seconds. A halt that ends less than this later than the present one is not a new halt.

Without it, each record of a batch would halt the sink again.
"""

Save = Callable[[SinkState], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class QuotaUse:
    """`used` of `most` calls of the day, of which ordinary deliveries get a `share`."""

    used: int | None
    most: int | None
    share: float | None


@dataclass(frozen=True, slots=True)
class SinkStatus:
    """What `relay status` shows of a sink. Times are in microseconds since the epoch."""

    state: Literal["running", "not running", "paused", "parked", "held", "disabled", "orphaned"]
    reason: str | None = None
    """Why not all deliveries go. A running sink has one while its quota is short."""
    since: int | None = None
    until: int | None = None
    """When more may go; None where an operator has to act."""
    quota: QuotaUse | None = None
    last_error: LastError | None = None

    @property
    def halted(self) -> bool:
        return self.state in ("paused", "parked", "held")

    def to_dict(self) -> dict[str, Any]:
        """Without what is None, except the `until` of a pause or a park."""
        known = {name: value for name, value in asdict(self).items() if value is not None}
        return {"until": None} | known if self.state in ("paused", "parked") else known


class SinkGate:
    """The gate of one sink. When its state changes, it calls `changed` and saves the state.

    Contacts' numbers are masked in the reasons that it keeps.
    """

    def __init__(
        self,
        config: SinkConfig,
        state: SinkState,
        quota: SafeQuota,
        clock: Clock,
        save: Save,
        changed: Callable[[], None],
    ) -> None:
        self._cooldown = config.breaker.cooldown
        self._state = state
        self._quota = quota
        self._clock = clock
        self._save = save
        self._notify = changed
        self._log = logging.getLogger(f"relay.sinks.{config.name}")
        self._health = HealthTracker(config.breaker)
        self._active = Stopwatch(clock, state.active)
        self._begun = state.active
        self._changed = asyncio.Event()
        self._consent_suspended = False
        # The time when all halts are over, by the monotonic clock.
        self._over_at = clock.monotonic() + planned(state)

    # whether a claim may be sent

    def may_send(self, kind: SendKind) -> bool:
        """Whether claims of this kind may be sent now. Only this decides it."""
        if kind is SendKind.CONSENT:
            return self._allows_consent()
        if self.remaining() > 0:
            return False
        match kind:
            case SendKind.ORDINARY:
                return self.quota_wait() == 0
            case SendKind.URGENT:
                return not self.breaker_open
            case _:
                return True

    def remaining(self) -> float:
        """Seconds until the sink may be tried: 0 from then on, infinite for an operator's pause."""
        if self._state.paused_by_operator:
            return math.inf
        left = over_at(self._state) / MICROSECONDS - self._clock.now()
        return max(0.0, min(left, self._over_at - self._clock.monotonic()))

    def quota_wait(self) -> float:
        """Seconds for which the quota leaves room for opt-outs alone."""
        return self._quota.bulk_wait()

    @property
    def quota_tight(self) -> bool:
        """Whether ordinary deliveries are sent one at a time: each answer says how much is left."""
        return self._quota.tight

    def _allows_consent(self) -> bool:
        """Whether words of consent may be sent though the sink is paused.

        The cause of the pause may concern other fields or other records. After one word that fails,
        none is sent until the next probe.
        """
        halted_otherwise = self.paused_by_operator or self.parked or self.breaker_open
        return self.paused and not halted_otherwise and not self._consent_suspended

    def suspend_consent(self) -> None:
        """Allow no word of consent until the next probe, as one has failed."""
        self._consent_suspended = True

    # its state

    @property
    def paused(self) -> bool:
        return self._state.paused is not None

    @property
    def paused_by_operator(self) -> bool:
        return self._state.paused_by_operator

    @property
    def parked(self) -> bool:
        return self._state.parked is not None

    @property
    def breaker_open(self) -> bool:
        return self._state.breaker_open

    def status(self) -> SinkStatus:
        """The status. While the quota is short, that of a running sink has a reason."""
        status, quota = stored_status(self._state), self._quota.status()
        if not quota:
            return status
        used, most, until = quota["used"], quota["most"], quota["until"]
        status = replace(status, quota=QuotaUse(used, most, quota["share"]))
        if until is None or status.halted:
            return status
        much = "all" if most is None else f"{used} of {most}"
        reason = f"quota: {much} calls of the day used; only opt-outs go"
        return replace(status, reason=reason, until=until)

    def moment(self) -> Moment:
        """The present, as the policy needs it."""
        period = PROBE_EVERY if self.paused else self._cooldown
        return Moment(self._clock.now(), self._active.elapsed(), period)

    async def until_due(self) -> None:
        """Wait until the sink may be tried."""
        while left := self.remaining():
            self._changed.clear()
            await wait_for_event(self._changed, self._clock, left)

    def resume_clock(self) -> None:
        """Count the time from now on for the retry windows of deliveries."""
        self._active.start()

    # changes

    async def observe(self, results: Sequence[Result], *, trial: bool) -> list[int]:
        """Halt the sink where the results show that it failed, and not a record.

        Returns the seqs of dead deliveries whose rejects the configuration caused.
        """
        revive: list[int] = []
        for halt in self._health.observe(results, trial=trial):
            await self._halt_for(halt)
            revive += halt.revive
        return revive

    async def _halt_for(self, halt: Halt) -> None:
        match halt.kind:
            case HaltKind.PAUSE:
                await self.pause(halt.reason, after=halt.seconds)
            case HaltKind.PARK:
                await self.park(halt.reason, halt.seconds or 0.0)
            case HaltKind.TRIP_BREAKER:
                await self.trip_breaker(halt.reason)

    async def pause(
        self, reason: str, *, after: float | None = None, by_operator: bool = False
    ) -> None:
        """Halt it. A probe is due in `after` seconds; none is due where an operator pauses it."""
        if self._state.paused_by_operator and not by_operator:
            return
        reason = mask_all(reason)
        seconds = PROBE_EVERY if after is None else min(after, LONGEST_WAIT)
        if self._state.paused is None or by_operator:
            self._log.log(logging.INFO if by_operator else logging.ERROR, "paused: %s", reason)
        elif self._state.paused == reason and seconds <= self.remaining() + MARGIN:
            return  # another record of the batch, with the same reason
        self._consent_suspended = False
        self._state.paused = reason
        self._state.paused_by_operator = by_operator
        self._state.probe_at = self._after(seconds)
        await self._halt(seconds)

    async def park(self, reason: str, seconds: float) -> None:
        """Halt it for so many seconds, at most a day."""
        reason = mask_all(reason)
        seconds = min(max(seconds, 0.0), LONGEST_WAIT)
        if self._state.parked is None or seconds > self.remaining() + MARGIN:
            self._log.warning("parked for %g s: %s", seconds, reason)
            self._state.parked = reason
            self._state.parked_until = self._after(seconds)
            await self._halt(seconds)

    async def trip_breaker(self, reason: str) -> None:
        """Park it for the breaker's cooldown. The next delivery is a trial."""
        if not self._state.breaker_open:
            self._state.breaker_open = True
            await self.park(reason, self._cooldown)

    async def trial_failed(self, reason: str) -> None:
        """Halt the sink for another period, as it was halted before its trial."""
        if self.paused:
            await self.pause(reason)
        else:
            await self.park(f"still failing: {reason}", self._cooldown)

    async def resume(self) -> None:
        """End every halt of the sink: it is running again."""
        self._health.reset()
        self._state = SinkState(active=self._active.elapsed(), crashes=self._state.crashes)
        self._over_at = 0.0
        self._active.start()
        self._log.info("resumed")
        await self._change()

    async def stop(self) -> None:
        """Stop counting time for deliveries, and reset the crashes: this is a clean stop."""
        self._active.stop()
        self._state.crashes = 0
        await self.save()

    async def save(self) -> None:
        """Save the state, with the seconds for which the sink was not halted."""
        self._state.active = self._active.elapsed()
        if self._state.active - self._begun >= STEADY:
            self._state.crashes = 0
        await self._save(self._state)

    def _after(self, seconds: float) -> int:
        """The time so many seconds from now, in microseconds since the epoch."""
        return int((self._clock.now() + seconds) * MICROSECONDS)

    async def _halt(self, seconds: float) -> None:
        self._state.halted_at = self._after(0.0)
        self._state.since = self._state.since or self._state.halted_at
        self._over_at = max(self._over_at, self._clock.monotonic() + seconds)
        self._active.stop()
        await self._change()

    async def _change(self) -> None:
        self._changed.set()
        self._notify()
        await self.save()


def stored_status(state: SinkState) -> SinkStatus:
    """The status by a stored state, without the quota and the last error."""
    until = None if state.paused_by_operator else over_at(state)
    since = state.since or state.halted_at
    if state.paused is not None:
        return SinkStatus("paused", state.paused, since, until)
    if state.parked is not None:
        return SinkStatus("parked", state.parked, since, until)
    return SinkStatus("running")


def over_at(state: SinkState) -> int:
    """When the sink may be tried, in microseconds since the epoch by the wall clock."""
    return state.parked_until if state.paused is None else state.probe_at


def planned(state: SinkState) -> float:
    """For how many seconds it was halted. It waits no longer even if the wall clock is set back."""
    return (over_at(state) - state.halted_at) / MICROSECONDS


class Prober:
    """Opens a sink, and ends its pauses and parks when they are due.

    `try_one` sends one delivery as a trial, and returns None where there is none to send.
    `sink_opened` is set once the sink is opened, and never cleared.
    """

    def __init__(
        self,
        config: SinkConfig,
        sink: Sink,
        gate: SinkGate,
        clock: Clock,
        try_one: Callable[[], Awaitable[Outcome | None]],
    ) -> None:
        self._config = config
        self._sink = sink
        self._gate = gate
        self._clock = clock
        self._send_trial = try_one
        self._failed_to_open = False
        self.sink_opened = asyncio.Event()

    async def until_running(self) -> None:
        """Return when the sink is opened and not halted. Until then, probe it when due."""
        while True:
            await self._gate.until_due()
            if not self.sink_opened.is_set():
                await self.open_sink()
            elif self._gate.paused:
                await self._probe()
            elif self._gate.breaker_open:
                await self._try_one()
            elif self._gate.parked:
                await self._gate.resume()
            else:
                return

    async def open_sink(self) -> bool:
        """Call the sink's `open`, unless that was done; return whether the sink is opened.

        One that cannot be opened is paused. Its next probe opens it again.
        """
        if self.sink_opened.is_set():
            return True
        try:
            work = plugin_calls.run(PluginCall(self._config.name, "open"), self._sink.open())
            await run_with_timeout(self._config.timeout, work)
        except Exception as error:  # noqa: BLE001  a plugin may raise anything
            self._failed_to_open = True
            outcome = outcome_of(error, self._clock.now())
            after = outcome.after
            if after is None and isinstance(outcome, Retry):  # e.g. a full disk: try sooner
                after = self._config.breaker.cooldown
            await self._gate.pause(f"it cannot be opened: {outcome.reason}", after=after)
            return False
        self.sink_opened.set()
        if self._failed_to_open:
            await self._recovered()
        return True

    async def _probe(self) -> None:
        """Check whether the cause of the pause is gone; a sink without a check gets a trial."""
        kind = type(self._sink)
        if kind.check is Sink.check or not kind.check_ends_pause:
            await self._try_one()
            return
        try:
            work = plugin_calls.run(PluginCall(self._config.name, "check"), self._sink.check())
            found = await run_with_timeout(self._config.timeout, work)
            problems = [each for each in lines(found) if not isinstance(each, Mistake | Notice)]
        except Exception as error:  # noqa: BLE001  a check that fails is a problem found
            problems = [f"{type(error).__name__} in check()"]
        if problems:
            await self._gate.pause("; ".join(problems))
        else:
            await self._recovered()

    async def _try_one(self) -> None:
        """Send one delivery as a trial. If it is delivered, the sink is running again."""
        outcome = await self._send_trial()
        if isinstance(outcome, Delivered):
            await self._recovered()
        elif outcome is not None and not self._gate.remaining():
            await self._gate.trial_failed(outcome.reason)  # else the outcome has already halted it

    async def _recovered(self) -> None:
        """Deliver again, unless the operator has paused the sink in the meantime."""
        if not self._gate.paused_by_operator:
            await self._gate.resume()
