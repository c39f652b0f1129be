"""The fleet: every enabled sink with its courier."""

import asyncio
import logging
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from relay.account import Accounts
from relay.clock import Clock, cancel_all
from relay.config.loader import Config, SinkConfig
from relay.config.plugins import PluginError, source_file
from relay.config.timelimit import MAKE, TookTooLong, limited
from relay.counters import SinkCounters
from relay.delivery import crashes, http
from relay.delivery.classify import readable
from relay.delivery.crashes import Crash
from relay.delivery.plugin_calls import Call, inside
from relay.delivery.rate_limit import Limiter
from relay.delivery.worker import Courier
from relay.sink import Sink
from relay.store import SinkState, Store
from relay.tracing import Tracer

log = logging.getLogger("relay")

SAVE_ACCOUNTS_EVERY = 10.0
"""Seconds."""


class Fleet:
    """Starts, wakes and stops the couriers; what the commands ask of workers, too."""

    def __init__(
        self, config: Config, store: Store, clock: Clock, tracer: Tracer | None = None
    ) -> None:
        self._config = config
        self._store = store
        self._clock = clock
        self._tracer = tracer
        self.accounts = Accounts(store, clock)
        self._couriers: dict[str, Courier] = {}
        self._held: dict[str, str] = {}
        self._starting: set[asyncio.Task[None]] = set()
        self._watches: set[asyncio.Task[None]] = set()
        self._failed = asyncio.Event()
        self._saving: asyncio.Task[None] | None = None

    @classmethod
    async def make(
        cls,
        config: Config,
        store: Store,
        clock: Clock,
        tracer: Tracer | None = None,
        crash: Crash | None = None,
    ) -> "Fleet":
        """A courier for each enabled sink, going on from the state that the store kept.

        One that cannot be made now, though it could be when it was tried out, is held; so is one
        inside whose code the process has ended too often.
        """
        fleet = cls(config, store, clock, tracer)
        enabled = [name for name, sink in config.sinks.items() if sink.enabled]
        states = await crashes.count_crash(crash, enabled, await store.sink_states(), store)
        for name in enabled:
            state = states.get(name) or SinkState()
            if (held := config.sinks[name].held) is not None:
                fleet._held[name] = held
            elif (reason := state.held or fleet._make(name, state)) is not None:
                fleet._held[name] = reason
                log.error("sink %s is held, its deliveries are queued: %s", name, reason)
        return fleet

    def _make(self, name: str, state: SinkState) -> str | None:
        """Make the sink and its courier; why that cannot be, where it cannot."""
        sink = self._config.sinks[name]
        try:
            made = make_sink(sink, self._clock, self.accounts)
        except PluginError as error:
            return error.message
        self._couriers[name] = Courier(sink, made, self._store, self._clock, state, self._tracer)
        return None

    def start(self, store: Store) -> None:
        """Begin to deliver."""
        store.subscribe(self._wake)
        self._saving = asyncio.create_task(self._save_accounts())
        self._begin(list(self._couriers.values()))

    def _begin(self, couriers: Sequence[Courier]) -> None:
        starting = asyncio.create_task(self._start(couriers))
        self._starting.add(starting)
        starting.add_done_callback(self._heard)

    async def _start(self, couriers: Sequence[Courier]) -> None:
        """Deliver what is suspected of having killed the process alone, then all the rest."""
        await self.accounts.restore()
        for courier in couriers:
            await courier.deliver_accused()
        for courier in couriers:
            courier.start()
            watch = asyncio.create_task(courier.failure())
            self._watches.add(watch)
            watch.add_done_callback(self._heard)

    def _heard(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (task.exception() or task in self._watches):
            self._failed.set()

    async def failure(self) -> None:
        """Return or raise when a courier ends by itself, which none should."""
        await self._failed.wait()
        for task in (*self._starting, *self._watches):
            if task.done():
                task.result()

    async def stop(self, grace: float) -> None:
        """Stop all couriers, each with `grace` seconds for what it is sending."""
        for task in (*self._starting, *self._watches):
            task.cancel()
        if self._starting:
            await asyncio.wait(self._starting)
        await self._each(courier.stop(grace) for courier in self._couriers.values())
        if self._saving is not None:
            await cancel_all([self._saving])
            await self.accounts.save()

    async def close(self) -> None:
        """Close the sinks; the store is closed by then, so nothing waits for their code."""
        await self._each(courier.close() for courier in self._couriers.values())

    async def _save_accounts(self) -> None:
        while True:
            await self._clock.sleep(SAVE_ACCOUNTS_EVERY)
            await self.accounts.save()

    async def _each(self, ends: Iterable[Coroutine[Any, Any, None]]) -> None:
        for error in await asyncio.gather(*ends, return_exceptions=True):
            if error is not None:
                log.error("a sink did not stop as it should: %s", type(error).__name__)

    async def pause(self, name: str, reason: str) -> None:
        if courier := self._couriers.get(name):
            await courier.pause(reason)

    async def resume(self, name: str) -> None:
        """Deliver again; a held sink is made again for that. Raises PluginError if it cannot be."""
        if courier := self._couriers.get(name):
            await courier.resume()
        elif name in self._held:
            await self._try_again(name)

    async def _try_again(self, name: str) -> None:
        state = (await self._store.sink_states()).get(name) or SinkState()
        state = replace(state, held=None, crashes=0)
        await self._store.save_sink_state(name, state)
        if (reason := self._make(name, state)) is not None:
            self._held[name] = reason
            raise PluginError(f"sinks.{name}", None, reason)
        del self._held[name]
        log.info("sink %s is held no more", name)
        self._begin([self._couriers[name]])

    def sink(self, name: str) -> Sink | None:
        courier = self._couriers.get(name)
        return courier.sink if courier else None

    def states(self) -> dict[str, dict[str, Any]]:
        held = {name: {"state": "held", "reason": why} for name, why in self._held.items()}
        return {name: courier.status() for name, courier in self._couriers.items()} | held

    def tallies(self) -> dict[str, SinkCounters]:
        return {name: courier.tally for name, courier in self._couriers.items()}

    def open_breakers(self) -> frozenset[str]:
        return frozenset(name for name, each in self._couriers.items() if each.breaker_open)

    def wake(self, name: str) -> None:
        if courier := self._couriers.get(name):
            courier.wake()

    def _wake(self, work: Mapping[str, bool]) -> None:
        for name, urgent in work.items():
            if courier := self._couriers.get(name):
                courier.wake(urgent=urgent)


def make_sink(config: SinkConfig, clock: Clock, accounts: Accounts | None = None) -> Sink:
    """The sink as its plugin made it, with a client of its own.

    It shares the accounts with the other sinks that were made with them. Raises PluginError where
    the plugin's own code fails.
    """
    client = http.client(
        timeout=config.timeout,
        allow_private=config.allow_private,
        limiter=None if config.rate is None else Limiter(config.rate, clock),
    )
    file = source_file(config.sink_class)
    try:
        what = f"__init__ of the sink {config.name} ({file})"
        with inside(Call(config.name, "__init__")), limited(what, MAKE):
            sink = config.sink_class.__new__(config.sink_class)
            sink.accounts = accounts
            sink.constants = {} if config.map is None else config.map.constants
            config.sink_class.__init__(
                sink,
                config.name,
                config.options,
                client,
                logging.getLogger(f"relay.sinks.{config.name}"),
                None if config.map is None else config.map.columns,
            )
            return sink
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # libraries in Rust, for one, raise what is no Exception
        why = f"{file}: {error}" if isinstance(error, TookTooLong) else readable(error)
        message = f"the plugin {config.plugin} cannot make it: {why}"
        raise PluginError(f"sinks.{config.name}", None, message) from error
