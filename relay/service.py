"""The service: the store, the listeners and the couriers, put together, run and stopped."""

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from relay import control, ingress, localsocket, tracing
from relay.alerts.watch import watching
from relay.anew import Kept
from relay.clock import Clock, SystemClock
from relay.config import Config
from relay.fleet import Fleet
from relay.front import drain, front
from relay.housekeeping import Housekeeping
from relay.intake import Intake
from relay.listeners import Listeners
from relay.metrics import Readings
from relay.overview import Overview
from relay.rescue import Rescue, rescued
from relay.reserve import Reserve
from relay.server import Server, make_server
from relay.shelter import Shelter, sheltering
from relay.sqlite import SqliteStore
from relay.standing import Standing
from relay.store import StoreBroken, StoreError, StoreLocked
from relay.tracing import Traces
from relay.upkeep import kept_up

GRACE = 3.0
"""With the listeners' drain, and what comes between and after, below the 10 s of a stop."""

log = logging.getLogger("relay")


class Service:
    """A running relay. Made by `started`, which also stops it."""

    def __init__(
        self, store: SqliteStore, fleet: Fleet, broken: asyncio.Event, traces: Traces | None
    ) -> None:
        self._store = store
        self.traces = traces
        self._fleet = fleet
        self._broken = broken
        self.public: list[Server] = []
        self.inner: list[Server] = []
        self.goes_on = False
        self.callbacks: ingress.Ingress | None = None
        self.overview: Overview

    @property
    def servers(self) -> list[Server]:
        """The public ones, the admin listener's, and the commands' socket last."""
        return self.public + self.inner

    @property
    def address(self) -> Any:
        """What the public listener is bound to."""
        return self.public[0].address

    async def pulse(self) -> None:
        """Return when the store's writer has come round."""
        await self._store.pulse()

    def go_on(self) -> int:
        """The stop that follows is for a start anew: the listeners stay, and the lock given."""
        self.goes_on = True
        return self._store.keep_lock()

    async def recovery(self) -> None:
        """Never: there is nothing to recover from."""
        await asyncio.Event().wait()

    async def failure(self) -> None:
        """Raise when a part of it fails."""
        parts = [
            asyncio.ensure_future(self._broken.wait()),
            asyncio.ensure_future(self._fleet.failure()),
        ]
        try:
            done, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for part in parts:
                part.cancel()
        for part in done:
            part.result()
        raise StoreBroken("the store failed; see the log")

    async def health(self) -> dict[str, Any]:
        """Whether callbacks are taken; a sink in trouble is told, but is no reason against it."""
        return self.overview.health()

    async def readings(self) -> Readings:
        """What the metrics show."""
        return await self.overview.readings()

    def facts(self) -> dict[str, float]:
        """What the metrics show of the public listener."""
        return {"relay_connections": sum(len(each.server_state.guests) for each in self.public[:1])}

    def refusals(self) -> Counter[int]:
        """How many requests reached no source, by status."""
        return sum((each.server_state.refusals for each in self.public), Counter())


@contextlib.asynccontextmanager
async def started(
    config: Config,
    *,
    clock: Clock | None = None,
    kept: Kept | None = None,
    standing: Standing | None = None,
) -> AsyncIterator[Service | Rescue]:
    """A relay that takes callbacks and delivers them; a stop loses nothing.

    `kept` is what was there before, and stays open where the process is to start anew. Where the
    store cannot be opened, callbacks are taken all the same. Raises StoreLocked where another
    relay has it, or OSError where this one cannot listen.
    """
    clock = clock or SystemClock()
    kept = kept or Kept(Listeners())
    standing = standing or Standing(config)
    path = _file(config)
    broken = asyncio.Event()
    way: contextlib.AbstractAsyncContextManager[Service | Rescue]
    await asyncio.to_thread(Reserve.of(config).relieve)
    try:
        store = await SqliteStore.open(path, clock=clock, on_broken=broken.set, kept_lock=kept.lock)
    except StoreLocked:
        raise
    except (StoreError, OSError) as error:
        way = rescued(path, error, clock, kept, standing)
    else:
        way = _serving(store, broken, clock, kept, standing)
    async with way as service:
        yield service


@contextlib.asynccontextmanager
async def _serving(
    store: SqliteStore, broken: asyncio.Event, clock: Clock, kept: Kept, standing: Standing
) -> AsyncIterator[Service]:
    config = standing.config
    try:
        traces = tracing.made(config.tracing)
        fleet = await Fleet.make(config, store, clock, traces)
        service = Service(store, fleet, broken, traces)
        intake = Intake(config, store, clock)
        async with sheltering(config, intake, store, clock) as shelter:
            try:
                await _listen(
                    service, store, fleet, intake, shelter, kept.listeners, clock, standing
                )
                fleet.start(store)
                await _name_orphans(config, store)
                async with (
                    watching(config.alerts, service.readings, store, _file(config), clock),
                    kept_up(store, config.retention, clock),
                ):
                    yield service
            finally:
                if not service.goes_on:
                    kept.listeners.close()
                try:
                    await drain(service.servers)
                finally:
                    await fleet.stop(GRACE)
                    if traces is not None:
                        await traces.close()
    finally:
        await store.close()


async def _listen(
    service: Service,
    store: SqliteStore,
    fleet: Fleet,
    intake: Intake,
    shelter: Shelter,
    listeners: Listeners,
    clock: Clock,
    standing: Standing,
) -> None:
    config = standing.config
    service.callbacks = ingress.app(
        shelter,
        config,
        ready=lambda: [] if store.alive() else ["store"],
        traces=service.traces,
    )
    service.overview = Overview(
        store,
        fleet,
        clock,
        service.callbacks.answers,
        service.refusals,
        facts=lambda: {**standing.facts(), **shelter.facts(), **service.facts()},
        notices=lambda: standing.notices() + shelter.notices(),
    )
    service.public, service.inner = front(
        config, listeners, service.callbacks, service.health, service.readings
    )
    commands = control.app(
        intake,
        store,
        config,
        fleet,
        standing,
        lambda: shelter.records,
        Housekeeping(store, config, fleet, shelter.erase, clock),
    )
    service.inner.append(make_server(commands, localsocket.listen(_file(config))))
    for server in service.servers:
        await server.start()


async def _name_orphans(config: Config, store: SqliteStore) -> None:
    for name, counts in (await store.sink_counts()).items():
        if name not in config.sinks and counts.pending:
            log.warning(
                "%d deliveries wait for the sink %s, which has gone from %s: "
                "relay sinks rename or discard",
                counts.pending,
                name,
                config.path.name,
            )


def _file(config: Config) -> Path:
    if isinstance(config.store, Path):
        return config.store
    raise StoreError("PostgreSQL is not supported yet: name a file as the store")
