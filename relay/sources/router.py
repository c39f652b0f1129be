"""The router: a callback becomes an event with one delivery for each sink that it matches."""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from relay.clock import Clock
from relay.config.loader import Config
from relay.config.sinks import SinkConfig
from relay.event import OPT_OUT, Event, InvalidCallback, RawCallback
from relay.slices import Slices
from relay.source import new_id
from relay.sources.calls import SourceCalls
from relay.store import EventRow, NewEvent, Quarantined, Receipt
from relay.store.port import Store
from relay.templating.expressions import EvaluationError

Words = dict[tuple[str, str], str]
"""The last word of consent of each source and contact in one request."""


class Router:
    """The way in, for the ingress and for the commands that go it again."""

    def __init__(self, config: Config, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self.sources = {name: SourceCalls(source) for name, source in config.source_plugins.items()}
        self._sinks = [sink for sink in config.sinks.values() if sink.enabled]
        conditions = [sink.when for sink in self._sinks if sink.when is not None]
        self.asks_consent = any(when.uses_opted_out for when in conditions)
        self._all_get_all = not conditions
        self._all = MappingProxyType(dict.fromkeys(sink.name for sink in self._sinks))

    def now(self) -> int:
        """The time of receipt, in microseconds since the epoch."""
        return int(self._clock.now() * 1_000_000)

    async def new_event(
        self, callback: RawCallback, event: Event | None = None, words: Words | None = None
    ) -> NewEvent:
        """What would be stored of a callback, which may be an `event` by now.

        `words` are those of the events before it that are not stored yet; its own is added.
        Raises InvalidCallback.
        """
        event = event or self.event(callback)
        return NewEvent(
            event=event,
            callback=callback,
            source=callback.source,
            kind=event.kind,
            deliveries=self._all if self._all_get_all else await self._deliveries(event, words),
        )

    def event(self, callback: RawCallback, event_id: str | None = None) -> Event:
        """The event that a callback makes; it may have its id already. Raises InvalidCallback."""
        return self._source(callback).event(callback, event_id)

    async def release(self, row: Quarantined) -> list[Receipt] | None:
        """Take a quarantined callback in after all; None where it has gone meanwhile.

        One that is a whole request may make several events. What of it is still not understood
        stays in quarantine. Whether it may be taken in, the caller has checked
        (relay.api.quarantine). Raises InvalidCallback where today's configuration does not help
        either.
        """
        events, invalid = await self.events(row.callback)
        if not events:
            raise InvalidCallback(invalid[0][1])
        arrivals: list[NewEvent] = []
        words: Words = {}
        slices = Slices()
        for callback, event in events:
            arrivals.append(await self.new_event(callback, event, words))
            await slices.rest()
        return await self._store.release(row.id, arrivals, invalid)

    async def events(
        self, callback: RawCallback
    ) -> tuple[list[tuple[RawCallback, Event]], list[tuple[RawCallback, str]]]:
        """The events of a whole request with their callbacks; what makes none, with the reason.

        Raises InvalidCallback where it cannot be split.
        """
        events, invalid = [], []
        slices = Slices()
        for part in self._source(callback).parts(callback):
            try:
                events.append((part, self.event(part)))
            except InvalidCallback as error:
                invalid.append((part, error.reason))
            await slices.rest()
        return events, invalid

    def _source(self, callback: RawCallback) -> SourceCalls:
        source = self.sources.get(callback.source)
        if source is None:
            raise InvalidCallback(f"no source {callback.source!r} in the configuration")
        return source

    def copy(self, row: EventRow, sink: str) -> NewEvent:
        """An event once more under an id of its own, for one sink (`replay --as-new`)."""
        return NewEvent(
            event=replace(row.event, id=new_id()),
            callback=row.callback,
            source=row.source,
            kind=row.event.kind,
            deliveries={sink: None},
            copy_of=row.event.id,
        )

    async def _deliveries(self, event: Event, words: Words | None) -> Mapping[str, str | None]:
        opted_out = self.asks_consent and await self.opted_out(event, words)
        verdicts, slices = {}, Slices()
        for sink in self._sinks:
            verdicts[sink.name] = _verdict(sink, event, opted_out)
            await slices.rest()
        return {
            name: verdict if isinstance(verdict, str) else None
            for name, verdict in verdicts.items()
            if verdict is not False
        }

    async def opted_out(self, event: Event, words: Words | None = None) -> bool:
        """The contact's last word, which may be this very event, or an opt-out in `words`.

        An opt-in in `words` may be a repeat that is older than an opt-out, so the store is asked.
        """
        source = event.source.removeprefix("/callbacks/")
        if words is not None and event.contact is not None:
            if event.consent is not None:
                words[source, event.contact] = event.consent
            elif words.get((source, event.contact)) == OPT_OUT:
                return True
        if event.consent is not None:
            return event.consent == OPT_OUT
        return await self._store.opted_out(source, event.contact)


def _verdict(sink: SinkConfig, event: Event, opted_out: bool) -> bool | str:
    """Whether the sink gets the event; an error's text where its `when` cannot tell."""
    try:
        return sink.gets(event, opted_out)
    except EvaluationError as error:
        return f"when: {error}"
