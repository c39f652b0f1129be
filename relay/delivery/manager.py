"""All sinks' workers, and what the commands ask of them; makes and checks single sinks."""

import asyncio
import logging
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from relay.account import Accounts
from relay.clock import Clock, SystemClock, cancel_all
from relay.config.loader import Config
from relay.config.plugins import PluginError, source_file
from relay.config.sinks import SinkConfig
from relay.config.timelimit import MAKE, TookTooLong, limited
from relay.counters import SinkCounters
from relay.delivery import crashes, http, plugin_calls
from relay.delivery.classify import lines, readable
from relay.delivery.crashes import Crash
from relay.delivery.gate import SinkStatus
from relay.delivery.plugin_calls import PluginCall, inside, run_with_timeout
from relay.delivery.worker import SinkWorker
from relay.rate_limit import Limiter
from relay.sink import Notice, Sink
from relay.store import SinkState
from relay.store.port import Store
from relay.tracing import Tracer

log = logging.getLogger("relay")

NOT_ASKED = Notice("not asked: its plugin has no check")
"""What is said of a sink in place of `well`."""

CHECK_TIMEOUT = 30.0
SAVE_ACCOUNTS_EVERY = 10.0


class Workers(Protocol):
    """What the commands ask of the sinks' workers."""

    accounts: Accounts

    async def pause(self, name: str, reason: str) -> None:
        """Deliver nothing more to the sink until `resume`."""

    async def resume(self, name: str) -> None:
        """Deliver again, at once. Raises PluginError where the sink cannot be made."""

    def sink(self, name: str) -> Sink | None:
        """The sink itself, where it has a worker."""

    def states(self) -> dict[str, SinkStatus]:
        """The status of each sink that has a worker, or is held."""

    def wake(self, name: str) -> None:
        """There may be something to deliver."""


class NoWorkers:
    """The workers where no service runs: a pause is saved for the next one."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.accounts = Accounts(store)

    async def pause(self, name: str, reason: str) -> None:
        state = await self._state(name)
        state.paused, state.paused_by_operator = reason, True
        await self._store.save_sink_state(name, state)

    async def resume(self, name: str) -> None:
        state = await self._state(name)
        await self._store.save_sink_state(name, SinkState(active=state.active))

    def sink(self, name: str) -> Sink | None:  # noqa: ARG002  there is none
        return None

    def states(self) -> dict[str, SinkStatus]:
        return {}

    def wake(self, name: str) -> None:
        """No worker runs."""

    async def _state(self, name: str) -> SinkState:
        return (await self._store.sink_states()).get(name) or SinkState()


class SinkManager:
    """Starts, wakes and stops the workers of all enabled sinks."""

    def __init__(
        self, config: Config, store: Store, clock: Clock, tracer: Tracer | None = None
    ) -> None:
        self._config = config
        self._store = store
        self._clock = clock
        self._tracer = tracer
        self.accounts = Accounts(store, clock)
        self._workers: dict[str, SinkWorker] = {}
        self._held: dict[str, str] = {}
        self._starting: set[asyncio.Task[None]] = set()
        self._failures: set[asyncio.Task[None]] = set()
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
    ) -> "SinkManager":
        """Make a worker for each enabled sink, with the state that the store kept.

        One that cannot be made now, though it could be when it was tried out, is held; so is one
        that has crashed the process too often.
        """
        manager = cls(config, store, clock, tracer)
        enabled = [name for name, sink in config.sinks.items() if sink.enabled]
        states = await crashes.count_crash(crash, enabled, await store.sink_states(), store)
        for name in enabled:
            state = states.get(name) or SinkState()
            if (held := config.sinks[name].held) is not None:
                manager._held[name] = held
            elif (reason := state.held or manager._make(name, state)) is not None:
                manager._held[name] = reason
                log.error("sink %s is held, its deliveries are queued: %s", name, reason)
        return manager

    def _make(self, name: str, state: SinkState) -> str | None:
        """Make the sink and its worker; the reason where that fails."""
        sink = self._config.sinks[name]
        try:
            made = make_sink(sink, self._clock, self.accounts)
        except PluginError as error:
            return error.message
        self._workers[name] = SinkWorker(sink, made, self._store, self._clock, state, self._tracer)
        return None

    def start(self, store: Store) -> None:
        """Begin to deliver."""
        store.subscribe(self._wake)
        self._saving = asyncio.create_task(self._save_accounts())
        self._begin(list(self._workers.values()))

    def _begin(self, workers: Sequence[SinkWorker]) -> None:
        starting = asyncio.create_task(self._start(workers))
        self._starting.add(starting)
        starting.add_done_callback(self._on_done)

    async def _start(self, workers: Sequence[SinkWorker]) -> None:
        """Deliver what was in flight at several crashes, one at a time; then all the rest."""
        await self.accounts.restore()
        for worker in workers:
            await worker.deliver_after_repeated_crash()
        for worker in workers:
            worker.start()
            watch = asyncio.create_task(worker.failure())
            self._failures.add(watch)
            watch.add_done_callback(self._on_done)

    def _on_done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (task.exception() or task in self._failures):
            self._failed.set()

    async def failure(self) -> None:
        """Return or raise when a worker ends by itself, which none should."""
        await self._failed.wait()
        for task in (*self._starting, *self._failures):
            if task.done():
                task.result()

    async def stop(self, grace: float) -> None:
        """Stop all workers, each with `grace` seconds for what it is sending."""
        for task in (*self._starting, *self._failures):
            task.cancel()
        if self._starting:
            await asyncio.wait(self._starting)
        await self._each(worker.stop(grace) for worker in self._workers.values())
        if self._saving is not None:
            await cancel_all([self._saving])
            await self.accounts.save()

    async def close(self) -> None:
        """Close the sinks; the store is closed by then, so nothing waits for their code."""
        await self._each(worker.close() for worker in self._workers.values())

    async def _save_accounts(self) -> None:
        while True:
            await self._clock.sleep(SAVE_ACCOUNTS_EVERY)
            await self.accounts.save()

    async def _each(self, ends: Iterable[Coroutine[Any, Any, None]]) -> None:
        for error in await asyncio.gather(*ends, return_exceptions=True):
            if error is not None:
                log.error("a sink did not stop as it should: %s", type(error).__name__)

    async def pause(self, name: str, reason: str) -> None:
        if worker := self._workers.get(name):
            await worker.pause(reason)

    async def resume(self, name: str) -> None:
        """Deliver again, for which a held sink is made. Raises PluginError if it cannot be."""
        if worker := self._workers.get(name):
            await worker.resume()
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
        self._begin([self._workers[name]])

    def sink(self, name: str) -> Sink | None:
        worker = self._workers.get(name)
        return worker.sink if worker else None

    def states(self) -> dict[str, SinkStatus]:
        held = {name: SinkStatus("held", why) for name, why in self._held.items()}
        return {name: worker.status() for name, worker in self._workers.items()} | held

    def counters(self) -> dict[str, SinkCounters]:
        return {name: worker.counters for name, worker in self._workers.items()}

    def open_breakers(self) -> frozenset[str]:
        return frozenset(name for name, each in self._workers.items() if each.breaker_open)

    def wake(self, name: str) -> None:
        if worker := self._workers.get(name):
            worker.wake()

    def _wake(self, work: Mapping[str, bool]) -> None:
        for name, urgent in work.items():
            if worker := self._workers.get(name):
                worker.wake(urgent=urgent)


def make_sink(config: SinkConfig, clock: Clock, accounts: Accounts | None = None) -> Sink:
    """Make a sink with its own HTTP client.

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
        with inside(PluginCall(config.name, "__init__")), limited(what, MAKE):
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


async def check_sinks(sinks: Iterable[SinkConfig], accounts: Accounts) -> dict[str, list[str]]:
    """Run the `check` of each sink: its lines by the sink's name. A Notice is no problem."""
    asked = list(sinks)
    found = await asyncio.gather(*(check_sink(sink, accounts) for sink in asked))
    return {sink.name: problems for sink, problems in zip(asked, found, strict=True)}


async def check_sink(sink: SinkConfig, accounts: Accounts) -> list[str]:
    """Run the sink's own `check`. Nothing is sent. Plugins may raise anything."""
    if sink.sink_class.check is Sink.check:
        return [NOT_ASKED]
    try:
        made = make_sink(sink, SystemClock(), accounts)
        async with made.http:
            found = await run_with_timeout(
                CHECK_TIMEOUT, plugin_calls.run(PluginCall(sink.name, "check"), made.check())
            )
            return lines(found)
    except TimeoutError:
        return [f"no answer within {CHECK_TIMEOUT:.0f} seconds"]
    except Exception as error:  # noqa: BLE001  it is the plugin's, whatever it is
        return [f"{type(error).__name__}: {error}"]
