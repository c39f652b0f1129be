"""The fleet: every enabled sink with its courier."""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from relay.clock import Clock
from relay.configuration.config import Config, SinkConfig
from relay.configuration.plugins import PluginError
from relay.delivery import http
from relay.delivery.classify import readable
from relay.delivery.courier import Courier
from relay.delivery.limiter import Limiter
from relay.sink import Sink
from relay.store import SinkState, Store
from relay.telemetry.tally import Deliveries
from relay.telemetry.tracing import Tracer

log = logging.getLogger("relay")


class Fleet:
    """Starts, wakes and stops the couriers; what the commands ask of workers, too."""

    def __init__(self, couriers: Mapping[str, Courier], held: Mapping[str, str]) -> None:
        self._couriers = couriers
        self._held = held
        self._starting: asyncio.Task[None] | None = None

    @classmethod
    async def make(
        cls, config: Config, store: Store, clock: Clock, tracer: Tracer | None = None
    ) -> "Fleet":
        """A courier for each enabled sink, going on from the state that the store kept.

        One that cannot be made now, though it could be when it was tried out, is held.
        """
        states = await store.sink_states()
        couriers: dict[str, Courier] = {}
        held: dict[str, str] = {}
        for name, sink in config.sinks.items():
            if not sink.enabled:
                continue
            if sink.held is not None:
                held[name] = sink.held
                continue
            state = states.get(name) or SinkState()
            try:
                couriers[name] = Courier(sink, make_sink(sink, clock), store, clock, state, tracer)
            except PluginError as error:
                held[name] = error.message
                log.error("sink %s is held, its deliveries are queued: %s", name, error.message)
        return cls(couriers, held)

    def start(self, store: Store) -> None:
        """Begin to deliver."""
        store.subscribe(self._wake)
        self._starting = asyncio.create_task(self._start())

    async def _start(self) -> None:
        """Deliver what is suspected of having killed the process alone, then all the rest."""
        for courier in self._couriers.values():
            await courier.deliver_accused()
        for courier in self._couriers.values():
            courier.start()

    async def failure(self) -> None:
        """Return or raise when a courier ends by itself, which none should."""
        if self._starting is not None:
            await asyncio.wait({self._starting})
            self._starting.result()
        if not self._couriers:
            await asyncio.Event().wait()
        watches = [asyncio.create_task(each.failure()) for each in self._couriers.values()]
        try:
            done, _ = await asyncio.wait(watches, return_when=asyncio.FIRST_COMPLETED)
            for watch in done:
                watch.result()
        finally:
            for watch in watches:
                watch.cancel()

    async def stop(self, grace: float) -> None:
        """Stop all couriers, each with `grace` seconds for what it is sending."""
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.wait({self._starting})
        stops = [courier.stop(grace) for courier in self._couriers.values()]
        for error in await asyncio.gather(*stops, return_exceptions=True):
            if error is not None:
                log.error("a sink did not stop as it should: %s", type(error).__name__)

    async def pause(self, name: str, reason: str) -> None:
        if courier := self._couriers.get(name):
            await courier.pause(reason)

    async def resume(self, name: str) -> None:
        if courier := self._couriers.get(name):
            await courier.resume()

    def sink(self, name: str) -> Sink | None:
        courier = self._couriers.get(name)
        return courier.sink if courier else None

    def states(self) -> dict[str, dict[str, Any]]:
        held = {name: {"state": "held", "reason": why} for name, why in self._held.items()}
        return {name: courier.status() for name, courier in self._couriers.items()} | held

    def tallies(self) -> dict[str, Deliveries]:
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


def make_sink(config: SinkConfig, clock: Clock) -> Sink:
    """The sink as its plugin made it, with a client of its own.

    Raises PluginError where the plugin's own code fails.
    """
    client = http.client(
        timeout=config.timeout,
        allow_private=config.allow_private,
        limiter=None if config.rate is None else Limiter(config.rate, clock),
    )
    try:
        return config.sink_class(
            config.name,
            config.options,
            client,
            logging.getLogger(f"relay.sinks.{config.name}"),
            None if config.map is None else config.map.columns,
        )
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # libraries in Rust, for one, raise what is no Exception
        message = f"the plugin {config.plugin} cannot make it: {readable(error)}"
        raise PluginError(f"sinks.{config.name}", None, message) from error
