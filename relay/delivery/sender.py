"""Sends a batch of claims to the sink; each has an outcome, whatever the plugin does."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

from relay.clock import Clock
from relay.config.sinks import SinkConfig
from relay.delivery import plugin_calls
from relay.delivery.classify import outcome_of, sanitise
from relay.delivery.plugin_calls import PluginCall, inside, run_with_timeout
from relay.delivery.policy import REJECTS_IN_A_ROW, MapFailed, Result
from relay.event import Event
from relay.outcome import Delivered, Outcome, Pause, Reject, Retry
from relay.send_context import SendContext
from relay.sink import Delivery, Sink
from relay.slices import Slices
from relay.store import Claim
from relay.templating.expressions import EvaluationError
from relay.tracing import Tracer

MOST_CAUSES = 50
"""The most errors of a chain of causes that are visited: a plugin may make any number."""
MORE = 1000
"""The most surplus outcomes that are counted: a generator may yield them without end."""


LastWord = Callable[[str], Awaitable[str | None]]
"""Returns a contact's last word, to any source: `opt_out`, `opt_in`, or None."""


async def _no_word(_: str) -> str | None:
    return None


class Sender:
    """Sends claims to one sink: renders the records, keeps the time-out, classifies errors."""

    def __init__(
        self,
        config: SinkConfig,
        sink: Sink,
        clock: Clock,
        tracer: Tracer | None = None,
        last_word: LastWord = _no_word,
    ) -> None:
        self._config = config
        self._sink = sink
        self._clock = clock
        self._tracer = tracer
        self._call = PluginCall(config.name, "send")
        self._last_word = last_word

    async def send(self, claims: Sequence[Claim], *, consent_only: bool = False) -> list[Result]:
        """Send the claims together; a result for each. Raises StoreError or CancelledError.

        With `consent_only`, of each no more than its word of consent.
        """
        context = SendContext(urgent=any(claim.urgent for claim in claims))
        if self._tracer is None:
            return await self._send(claims, context, consent_only=consent_only)
        with self._tracer.attempts(self._config.name, claims) as attempts:
            context = replace(context, traceparent=attempts.traceparent)
            results = await self._send(claims, context, consent_only=consent_only)
            attempts.end([result.outcome for result in results])
        return results

    async def _send(
        self, claims: Sequence[Claim], context: SendContext, *, consent_only: bool
    ) -> list[Result]:
        started, begun = self._clock.now(), self._clock.monotonic()
        deliveries, outcomes = await self._rendered(claims, consent_only=consent_only)
        sent = [claim for claim in claims if claim.seq not in outcomes]
        rest: set[int] = set()
        if consent_only:
            pairs = zip(sent, deliveries, strict=True)
            rest = {claim.seq for claim, each in pairs if each.record is not None or each.map_error}
            deliveries = [replace(each, record=None, map_error=None) for each in deliveries]
        if sent:
            answers = await self._send_or_split(deliveries, context)
            with inside(self._call):  # sanitising may run code of the plugin
                results = [sanitise(each) for each in answers]
            for claim, delivery, result in zip(sent, deliveries, results, strict=True):
                outcomes[claim.seq] = await self._concluded(delivery, result)
        duration = self._clock.monotonic() - begun
        return [
            Result(claim, outcomes[claim.seq], started, duration, claim.seq in rest)
            for claim in claims
        ]

    async def _rendered(
        self, claims: Sequence[Claim], *, consent_only: bool
    ) -> tuple[list[Delivery], dict[int, Outcome]]:
        """The deliveries, and by seq the outcomes of claims of which nothing can be sent."""
        deliveries: list[Delivery] = []
        outcomes: dict[int, Outcome] = {}
        slices = Slices()
        for claim in claims:
            if consent_only and not self._config.takes_consent(claim.event):
                outcomes[claim.seq] = Pause("the options of the sink take no such word of consent")
                continue
            try:
                deliveries.append(await self._delivery(claim))
            except EvaluationError as error:
                outcomes[claim.seq] = MapFailed(f"map: {error}")
            await slices.rest()
        return deliveries, outcomes

    async def _delivery(self, claim: Claim) -> Delivery:
        """The delivery. Raises EvaluationError where nothing of it can be sent."""
        event = claim.event
        plain = Delivery(event.id, event, None, claim.attempt, claim.replayed, claim.stale)
        if not self._config.takes_consent(event):
            return self._with_record(plain, claim)
        plain = replace(plain, last_word=await self._last_word_of(event) or event.consent)
        try:
            matches = self._config.matches(event, claim.opted_out)
        except EvaluationError as error:
            return replace(plain, map_error=f"when: {error}")
        try:
            return self._with_record(plain, claim) if matches else plain
        except EvaluationError as error:
            return replace(plain, map_error=f"map: {error}")

    async def _last_word_of(self, event: Event) -> str | None:
        return None if event.contact is None else await self._last_word(event.contact)

    def _with_record(self, delivery: Delivery, claim: Claim) -> Delivery:
        record, dropped = self._config.record(claim.event, claim.opted_out)
        return replace(delivery, record=record, dropped=tuple(dropped))

    async def _concluded(self, delivery: Delivery, outcome: Outcome) -> Outcome:
        """The outcome, with what it means for a word of consent where the sink did not say so."""
        if delivery.dropped and isinstance(outcome, Delivered):
            left_out = f"without {'; '.join(delivery.dropped)}"
            outcome = replace(outcome, note="; ".join(filter(None, (left_out, outcome.note))))
        if delivery.last_word is None:
            return outcome
        written = isinstance(outcome, Delivered) or outcome.consent
        if written and await self._last_word_of(delivery.event) not in (delivery.last_word, None):
            return Retry("the number said another word of consent while this was written")
        if delivery.map_error and isinstance(outcome, Delivered):
            return MapFailed(delivery.map_error, consent=True)
        return outcome

    async def _send_or_split(
        self, deliveries: Sequence[Delivery], context: SendContext
    ) -> list[Outcome]:
        """Send a batch. One that is refused as a whole is sent again one by one."""
        outcomes = await self._send_batch(deliveries, context)
        if not isinstance(outcomes, Reject) or len(deliveries) == 1:
            return outcomes if isinstance(outcomes, list) else [outcomes] * len(deliveries)
        singly: list[Outcome] = []
        for delivery in deliveries:
            if len(singly) == REJECTS_IN_A_ROW and all(isinstance(each, Reject) for each in singly):
                rest = len(deliveries) - REJECTS_IN_A_ROW
                return singly + [Pause(f"each record is refused: {outcomes.reason}")] * rest
            outcome = await self._send_batch([delivery], context)
            singly += outcome if isinstance(outcome, list) else [outcome]
        return singly

    async def _send_batch(
        self, deliveries: Sequence[Delivery], context: SendContext
    ) -> list[Outcome] | Outcome:
        """The outcomes in order, or the one that applies to all."""
        try:
            work = plugin_calls.run(self._call, self._answer(deliveries))
            outcomes: list[Outcome] | Outcome = await run_with_timeout(
                self._config.timeout, work, context
            )
        except TimeoutError:
            return Retry(f"no end within {self._config.timeout:g} s")
        except Exception as error:  # noqa: BLE001  whatever a plugin raises is an outcome
            outcome = outcome_of(error, self._clock.now())
            _forget_frames(error)
            return outcome
        return outcomes

    async def _answer(self, deliveries: Sequence[Delivery]) -> list[Outcome] | Outcome:
        return self._checked(await self._sink.send_batch(deliveries), len(deliveries))

    def _checked(self, outcomes: Any, expected: int) -> list[Outcome] | Outcome:
        """A plugin may return anything."""
        try:
            listed = list(islice(outcomes, expected + MORE))
        except TypeError:
            listed = [outcomes]
        if len(listed) != expected:
            return Retry(f"send_batch returned {len(listed)} outcomes for {expected} deliveries")
        return [
            each
            if isinstance(each, Delivered | Retry | Reject | Pause)
            else Retry(f"send_batch returned {type(each).__name__}, which is no outcome")
            for each in listed
        ]


def _forget_frames(error: BaseException) -> None:
    """Free what was to be sent at once.

    The frames hold it, they and the error hold each other, and the garbage collector comes late:
    it counts objects, not bytes.
    """
    left: list[BaseException | None] = [error]
    for _ in range(MOST_CAUSES):
        each = left.pop() if left else None
        if each is not None:
            each.__traceback__ = None
            left += (each.__cause__, each.__context__)
