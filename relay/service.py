"""The service: the listeners, the store and the workers, put together, run and stopped."""

import asyncio
import contextlib
import importlib
import logging
import os
from collections import Counter
from collections.abc import AsyncIterator, Awaitable
from enum import Enum
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.types import Receive, Scope, Send

from relay.alerts.monitor import run_monitor
from relay.api import RELOAD
from relay.api.app import Reload, make_app
from relay.api.maintenance import Maintenance
from relay.clock import Clock, SystemClock
from relay.config.last_good import ConfigStatus
from relay.config.loader import Config
from relay.config.model import Tracing
from relay.delivery.crashes import CrashLog
from relay.delivery.manager import SinkManager
from relay.health import TRY_AGAIN, Degraded, Health, Probes, StoreBackoff
from relay.monitoring.metrics import Readings, exposition
from relay.reexec import Inherited
from relay.retention import run_retention
from relay.server import ingress
from relay.server.http_server import HttpServer, drain_all, make_server, make_servers
from relay.server.sockets import Listeners, listen_control
from relay.sources.router import Router
from relay.spill.disk import DiskGuard
from relay.spill.failover import FailoverStore, running_failover
from relay.store import StoreBroken, StoreError
from relay.store.sqlite import SqliteStore
from relay.store.sqlite.connection import lock
from relay.tracing import Tracer

OPEN_WITHIN = 1.0
"""Seconds that callbacks wait for the store to be opened. After that they are spilled."""
CHECK_FILES_EVERY = 1.0
"""Seconds between checks that the store's files are still there, if nothing is written."""
ALERT_AFTER = 60.0
"""Seconds after which a store that is still being opened is worth an alert."""
GRACE = 3.0
"""With the listeners' drain, and what comes between and after, below the 10 s of a stop."""

log = logging.getLogger("relay")


class ServiceState(Enum):
    """The states of a service. It takes callbacks in all of them."""

    OPENING = "opening"
    """The store is being opened; that may be a migration of minutes."""
    DEGRADED = "degraded"
    """The store cannot be opened. Callbacks go to the spill, and the store is tried again."""
    RUNNING = "running"
    """The store is in use."""
    BREAKING = "breaking"
    """The store failed in use. The process has to re-exec, as nothing known of it holds."""
    STOPPING = "stopping"


TRANSITIONS: dict[ServiceState, set[ServiceState]] = {
    ServiceState.OPENING: {
        ServiceState.DEGRADED,
        ServiceState.RUNNING,
        ServiceState.BREAKING,
        ServiceState.STOPPING,
    },
    ServiceState.DEGRADED: {ServiceState.RUNNING, ServiceState.BREAKING, ServiceState.STOPPING},
    ServiceState.RUNNING: {ServiceState.BREAKING, ServiceState.STOPPING},
    ServiceState.BREAKING: {ServiceState.STOPPING},
    ServiceState.STOPPING: set(),
}


class Service:
    """A running relay. Made by `started`, which also stops it.

    It takes callbacks from its start on. Deliveries, commands and retention begin when the store is
    open, which may be much later.
    """

    def __init__(
        self,
        config_status: ConfigStatus,
        failover: FailoverStore,
        tracer: Tracer | None,
        clock: Clock,
        crash_log: CrashLog | None = None,
        reload: Reload | None = None,
    ) -> None:
        self._config_status = config_status
        self._config = config_status.config
        self._path = _file(self._config)
        self._state = self._config.state
        self._failover = failover
        self._tracer = tracer
        self._clock = clock
        self._crash_log = crash_log
        self.callbacks = ingress.app(
            failover, self._config, not_ready=self._not_ready, tracer=tracer
        )
        self._probes = Probes(
            clock,
            self.callbacks.answers,
            self.refusals,
            self.facts,
            self.notices,
            failover.refusal,
        )
        self._degraded = Degraded(self._probes)
        self.status: Health | Degraded = self._degraded
        self._commands = self._degraded.app()
        self._reload = (reload or Reload()).app(config_status)
        self.public: list[HttpServer] = []
        self.inner: list[HttpServer] = []
        self.state = ServiceState.OPENING
        self._changed = asyncio.Event()
        self.reexec_prepared = False
        self.store_closed = False
        """Whether a stop that is cut short from here on loses nothing."""
        self._store: SqliteStore | None = None
        self._has_broken = False
        self._sink_manager: SinkManager | None = None
        self._delivering = asyncio.Event()
        self._used_since = 0.0
        self._main: asyncio.Task[None] | None = None

    @property
    def servers(self) -> list[HttpServer]:
        """The public ones, the admin listener's, and the commands' socket last."""
        return self.public + self.inner

    @property
    def address(self) -> Any:
        """What the public listener is bound to."""
        return self.public[0].address

    # states

    def _enter(self, state: ServiceState) -> None:
        """Change the state. What cannot follow the present one is ignored, as it comes too late."""
        if state in TRANSITIONS[self.state]:
            self.state = state
            changed, self._changed = self._changed, asyncio.Event()
            changed.set()

    async def reached(self, *states: ServiceState) -> None:
        """Return when the service is in one of these states."""
        while self.state not in states:
            await self._changed.wait()

    async def opened(self) -> None:
        """Return when the store is in use, or cannot be opened for now."""
        await self.reached(*(state for state in ServiceState if state is not ServiceState.OPENING))

    def _store_broke(self) -> None:
        """A store that fails before it is in use ends the process when it can be opened again.

        The next opening may succeed, yet nothing of the process's file may be used again.
        """
        self._has_broken = True
        if self._store is not None:
            self._enter(ServiceState.BREAKING)

    # start and stop

    async def start(self, inherited: Inherited) -> None:
        """Return when callbacks are taken. Raises StoreLocked or OSError."""
        self.public, self.inner = make_servers(
            self._config, inherited.listeners, self.callbacks, self.health, self.metrics
        )
        servers = self.servers
        kept_lock = None if inherited.broke else _locked(self._path, inherited.lock)
        inherited.listeners.listen()
        self._main = asyncio.create_task(self._run(kept_lock, inherited.broke))
        await _first(asyncio.shield(self._main), self.opened(), asyncio.sleep(OPEN_WITHIN))
        if self.state is ServiceState.OPENING:
            log.warning(
                "the store is still being opened; callbacks are kept in %s",
                self._config.state.spill,
            )
        for server in servers:
            await server.start()
        await self._listen_for_commands()

    async def stop(self, listeners: Listeners) -> None:
        """Answer what has come in, put back what is in flight, and close the store."""
        self._enter(ServiceState.STOPPING)
        if not self.reexec_prepared:
            listeners.close()
        if self._store is None:  # its use is not to begin now
            await _end(self._main)
        await drain_all(self.servers)
        self.callbacks.refusal_log.flush()
        await _end(self._main)

    def prepare_reexec(self) -> int | None:
        """Have the stop that follows leave the listeners open; return the store's lock to pass on.

        The lock of a store that broke is released, so that it can be repaired.
        """
        self.reexec_prepared = True
        return self._store.keep_lock() if self._store and self._store.alive() else None

    async def pulse(self) -> None:
        """Return when the store's writer thread has done its work; for the watchdog."""
        if self._store is not None:
            await self._store.flush()

    async def failure(self) -> None:
        """Wait until a part fails, and raise its error: a StoreError where that is the store."""
        assert self._main is not None
        await _first(asyncio.shield(self._main), self._delivering.wait())
        assert self._sink_manager is not None
        await _first(self.reached(ServiceState.BREAKING), self._sink_manager.failure())
        raise StoreBroken(self._store.trouble if self._store else "a write failed")

    def store_lifetime(self) -> float:
        """For how many seconds the store has been used."""
        return self._clock.monotonic() - self._used_since if self._sink_manager is not None else 0.0

    # health and metrics

    async def health(self) -> dict[str, Any]:
        """Whether callbacks are stored. A halted sink is named, but does not make it unready."""
        return self.status.health()

    async def readings(self) -> Readings:
        """What the metrics and the alerts are made of."""
        return await self.status.readings()

    async def metrics(self) -> bytes:
        """The metrics page for Prometheus."""
        return exposition(await self.readings())

    def facts(self) -> dict[str, float]:
        """Values for the metrics."""
        connections = sum(len(each.server_state.limiter) for each in self.public[:1])
        return {
            **self._config_status.facts(),
            **self._failover.facts(),
            "relay_connections": connections,
        }

    def notices(self) -> list[str]:
        """What an operator should know. Without a store, Degraded reports the spill's records."""
        failover = self._failover
        of_spill = failover.spill_notices() if self._store is None else failover.notices()
        return self._config_status.notices() + of_spill

    def refusals(self) -> Counter[int]:
        """How many requests reached no source, by status."""
        return sum((each.server_state.refusals for each in self.public), Counter())

    def _not_ready(self) -> list[str]:
        broken = self._store is not None and not self._store.alive()
        return ["store"] if broken or self._failover.refusal() else []

    # with its store

    async def _run(self, kept_lock: int | None, backoff: StoreBackoff | None) -> None:
        """Open the store, and use it until cancelled."""
        alerts = asyncio.create_task(self._alert_without_store())
        try:
            store, sink_manager = await self._open_store_with_retry(kept_lock, backoff)
            try:
                await _end(alerts)
                await self._run_with_store(store, sink_manager)
            finally:
                await sink_manager.stop(GRACE)
                await self._failover.stop()
                try:
                    await store.close()
                    self.store_closed = True
                finally:
                    await sink_manager.close()
        finally:
            await _end(alerts)

    async def _alert_without_store(self) -> None:
        """Run the alerts without a store, if it cannot be opened or takes long."""
        await _first(self.opened(), asyncio.sleep(ALERT_AFTER))
        async with self._run_alerts(None):
            await asyncio.Event().wait()

    async def _open_store_with_retry(
        self, kept_lock: int | None, backoff: StoreBackoff | None
    ) -> tuple[SqliteStore, SinkManager]:
        """The store and its sinks, as soon as it can be opened."""
        if backoff is not None:
            self._store_unavailable(f"{self._path}: {backoff.reason}")
            await self._clock.sleep(backoff.pause)
        while True:
            try:
                return await self._open_store(kept_lock)
            except (StoreError, OSError) as error:
                self._store_unavailable(str(error))
            kept_lock = None
            await self._clock.sleep(TRY_AGAIN)

    async def _open_store(self, kept_lock: int | None) -> tuple[SqliteStore, SinkManager]:
        """Open the store, and make its sinks. Raises StoreError or OSError."""
        opening = asyncio.ensure_future(
            SqliteStore.open(
                self._path,
                clock=self._clock,
                on_broken=self._store_broke,
                kept_lock=kept_lock,
                quarantine_size=self._config.retention.quarantine_size,
            )
        )
        # A stop does not wait for a migration: it may be cut short by the end of the process.
        store = await asyncio.shield(opening)
        try:
            await _log_orphans(self._config, store)
            return store, await self._make_sinks(store)
        except BaseException:
            await store.close()
            raise

    async def _make_sinks(self, store: SqliteStore) -> SinkManager:
        crash = None
        if self._crash_log is not None:
            crash = await asyncio.to_thread(self._crash_log.begin, self._state.crash_log)
        return await SinkManager.make(self._config, store, self._clock, self._tracer, crash)

    def _store_unavailable(self, trouble: str) -> None:
        if not self._degraded.error:
            log.critical("%s; callbacks are kept in %s", trouble, self._config.state.spill)
        self._degraded.error = trouble
        self._enter(ServiceState.DEGRADED)

    async def _run_with_store(self, store: SqliteStore, sink_manager: SinkManager) -> None:
        """Deliver, answer commands, purge."""
        router = Router(self._config, store, self._clock)
        if self._degraded.error:
            log.warning("the store can be opened again")
            await self._listen_for_commands()
        self._store, self._sink_manager = store, sink_manager
        if self._has_broken or not store.alive():  # since it was first opened
            self._store_broke()
        self.status = Health(store, sink_manager, self._probes)
        self._commands = self._make_commands(router, store, sink_manager)
        sink_manager.start(store)
        self._used_since = self._clock.monotonic()
        self._delivering.set()  # before the spill is read: its disk may hang
        await self._failover.attach_store(router, store)
        retention = run_retention(store, self._config.retention, self._clock)
        async with self._run_alerts(store), retention:
            self._enter(ServiceState.RUNNING)
            while True:
                await asyncio.sleep(CHECK_FILES_EVERY)
                with contextlib.suppress(StoreError):
                    await store.flush()

    def _make_commands(
        self, router: Router, store: SqliteStore, sink_manager: SinkManager
    ) -> Starlette:
        """The API of the commands."""
        failover = self._failover
        return make_app(
            router,
            store,
            self._config,
            sink_manager,
            self._config_status,
            spilled=failover.records,
            maintenance=Maintenance(
                router, store, self._config, sink_manager, failover.erase, self._clock
            ),
            refusal=failover.refusal,
            unreadable=failover.unreadable,
        )

    def _run_alerts(self, store: SqliteStore | None) -> contextlib.AbstractAsyncContextManager[Any]:
        return run_monitor(
            self._config.alerts, self.readings, store, self._state.alerts, self._clock
        )

    async def _listen_for_commands(self) -> None:
        """Listen on the control socket, unless it is served; the folder may be what is wrong."""

        async def commands(scope: Scope, receive: Receive, send: Send) -> None:
            app = self._reload if scope["path"] == RELOAD else self._commands
            await app(scope, receive, send)

        try:
            if not self._state.is_served():
                server = make_server(commands, listen_control(self._state))
                self.inner.append(server)
                await server.start()
        except OSError as error:
            log.error("the commands cannot reach the relay: %s", error)


@contextlib.asynccontextmanager
async def started(
    config: Config,
    *,
    clock: Clock | None = None,
    inherited: Inherited | None = None,
    config_status: ConfigStatus | None = None,
    crash_log: CrashLog | None = None,
    reload: Reload | None = None,
) -> AsyncIterator[Service]:
    """A relay that takes callbacks and delivers them; a stop loses nothing.

    `inherited` is what the image before passed on; it stays open if another image follows. While
    the store cannot be opened, callbacks are spilled. Raises StoreLocked where another
    relay has it, or OSError where this one cannot listen.
    """
    clock = clock or SystemClock()
    inherited = inherited or Inherited(Listeners())
    await asyncio.to_thread(DiskGuard(config.state, config.store_reserve).release_ballast)
    tracer = _make_tracer(config.tracing)
    try:
        async with running_failover(config, clock) as failover:
            config_status = config_status or ConfigStatus(config)
            service = Service(config_status, failover, tracer, clock, crash_log, reload)
            try:
                await service.start(inherited)
                yield service
            finally:
                await service.stop(inherited.listeners)
    finally:
        if tracer is not None:
            await tracer.close()


def _make_tracer(settings: Tracing | None) -> Tracer | None:
    """The tracer of relay.yaml. The extra is imported only then: that takes its time."""
    if settings is None:
        return None
    otel: Any = importlib.import_module("relay.monitoring.otel")
    tracer: Tracer = otel.make_tracer(settings)
    return tracer


def _locked(path: Path, kept: int | None) -> int | None:
    """The store's lock, which may be `kept`. Raises StoreLocked."""
    try:
        with lock(path, kept) as file:
            return os.dup(file.fileno())
    except OSError:  # its folder may be what is wrong
        if kept is not None:
            os.close(kept)
        return None


async def _first(*parts: Awaitable[object]) -> None:
    """Wait for the first of the parts to end; cancel the others. Raises what it raises."""
    tasks = [asyncio.ensure_future(part) for part in parts]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
    for task in done:
        task.result()


async def _end(task: asyncio.Task[None] | None) -> None:
    """Cancel a task, and wait for its end."""
    if task is not None and not task.done():
        task.cancel()
        await asyncio.wait({task})


async def _log_orphans(config: Config, store: SqliteStore) -> None:
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
