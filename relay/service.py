"""The service: the store, the listeners and the couriers, put together, run and stopped."""

import asyncio
import contextlib
import gc
import logging
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from relay import admin, control, ingress, localsocket
from relay.clock import Clock, SystemClock
from relay.config import Config
from relay.fleet import Fleet
from relay.intake import Intake
from relay.lag import LagWatch
from relay.metrics import Readings
from relay.server import Server, listen, make_server, try_certificate
from relay.sqlite import SqliteStore
from relay.store import StoreBroken, StoreError

DRAIN = 3.0
GRACE = 3.0
"""Together with what comes between and after them below the 10 s that a stop may take."""

COLLECT = (5_000, 20, 100)
"""When garbage is looked for: seldom, as hardly any is in circles; but what a plugin leaves of it
is cleared away in pieces of a few milliseconds, for everything stands still meanwhile."""

log = logging.getLogger("relay")


class Service:
    """A running relay. Made by `started`, which also stops it."""

    def __init__(self, store: SqliteStore, fleet: Fleet, broken: asyncio.Event) -> None:
        self._store = store
        self._fleet = fleet
        self._broken = broken
        self.servers: list[Server] = []
        self.callbacks: ingress.Ingress | None = None

    @property
    def address(self) -> Any:
        """What the public listener is bound to."""
        return self.servers[0].address

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
        alive = self._store.alive()
        reasons = [] if alive else ["the store cannot be written"]
        return {"ready": alive, "reasons": reasons, "sinks": self._fleet.states()}

    async def readings(self) -> Readings:
        """What the metrics show."""
        assert self.callbacks is not None
        return Readings(
            answers=self.callbacks.answers,
            refusals=self.servers[0].server_state.refusals,
            sinks=await self._store.sink_counts(),
            states=self._fleet.states(),
            statistics=self._store.statistics(),
        )


@contextlib.asynccontextmanager
async def started(
    config: Config, *, clock: Clock | None = None, public: socket.socket | None = None
) -> AsyncIterator[Service]:
    """A relay that takes callbacks and delivers them; a stop loses nothing.

    `public` is a listening socket to use in place of `server.listen`. Raises StoreError or
    OSError where it cannot start.
    """
    clock = clock or SystemClock()
    broken = asyncio.Event()
    store = await SqliteStore.open(_file(config), clock=clock, on_broken=broken.set)
    try:
        fleet = await Fleet.make(config, store, clock)
        service = Service(store, fleet, broken)
        intake = Intake(config, store, clock)
        try:
            await _listen(config, service, store, fleet, intake, public)
            fleet.start(store)
            await _name_orphans(config, store)
            yield service
        finally:
            try:
                await asyncio.gather(*(server.drain(DRAIN) for server in service.servers))
            finally:
                await fleet.stop(GRACE)
    finally:
        await store.close()


async def _listen(
    config: Config,
    service: Service,
    store: SqliteStore,
    fleet: Fleet,
    intake: Intake,
    public: socket.socket | None,
) -> None:
    if tls := config.server.tls:
        try_certificate(tls.cert, tls.key)
    service.callbacks = ingress.app(
        intake,
        store,
        config,
        on_broken=lambda: None,  # the store itself tells the service
        ready=lambda: [] if store.alive() else ["store"],
    )
    with contextlib.ExitStack() as bound:
        outside = public or bound.enter_context(listen(config.server.listen))
        inside = bound.enter_context(listen(config.admin.listen))
        beside = bound.enter_context(localsocket.listen(_file(config)))
        bound.pop_all()  # all are to be had: from here on they are the servers' to close
    service.servers = [
        make_server(
            service.callbacks,
            outside,
            certificate=tls.cert if tls else None,
            key=tls.key if tls else None,
        ),
        make_server(admin.app(service.health, service.readings), inside),
        make_server(control.app(intake, store, config, fleet), beside),
    ]
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


async def run(config: Config) -> None:
    """Run until SIGTERM, SIGINT or SIGHUP. Raises StoreBroken when the store fails."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(tell_of_error)
    for number in _stopping():
        loop.add_signal_handler(number, stop.set)
    watch = LagWatch()
    async with started(config) as service:
        watch.start()
        gc.freeze()  # what is there now stays: the collector need not look at it again
        gc.set_threshold(*COLLECT)
        log.info("callbacks are taken on %s", _url(config, service))
        ends = [asyncio.create_task(stop.wait()), asyncio.create_task(service.failure())]
        done, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
        log.info("stopping")
        watch.stop()
    log.info("stopped; nothing is lost")


def tell_of_error(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log an error that nobody waits for; asyncio would show the values that it came with."""
    error = context.get("exception")
    log.error("%s", context["message"].partition(" in callback ")[0], exc_info=error)


def _stopping() -> list[signal.Signals]:
    """The signals that stop it. A terminal that closes sends SIGHUP, which nohup has ignored."""
    stopping = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        stopping.append(signal.SIGHUP)
    return stopping


def _url(config: Config, service: Service) -> str:
    scheme = "https" if config.server.tls else "http"
    host, port = service.address[:2]
    return f"{scheme}://{host}:{port}/callbacks/{next(iter(config.sources), '…')}"


def _file(config: Config) -> Path:
    if isinstance(config.store, Path):
        return config.store
    raise StoreError("PostgreSQL is not supported yet: name a file as the store")
