"""The process of `relay run`: signals, reload by re-exec, the reports to systemd and the log."""

import asyncio
import contextlib
import gc
import logging
import os
import signal
import threading
from types import FrameType
from typing import Any

from relay.api.app import Reload
from relay.config import last_good
from relay.config.last_good import ConfigStatus
from relay.config.loader import Config
from relay.delivery import plugin_calls
from relay.delivery.crashes import BlockedLoopWatch, CrashLog
from relay.health import StoreBackoff
from relay.loop_lag import LAG, LOOKS, LagWatch
from relay.preflight import vet
from relay.reexec import SIGNALS, Inherited
from relay.server.connections import raise_open_file_limit
from relay.service import Service, ServiceState, started
from relay.store import StoreError
from relay.systemd import SystemdNotifier, Watchdog

COLLECT = (5_000, 20, 100)
"""The thresholds of the garbage collector. It is seldom needed, as the relay makes hardly any
reference cycles; what plugins leave is collected in steps of a few milliseconds, during which
everything stands still."""

LOG_PROBLEMS_EVERY = 600.0
"""Seconds between two logs of what is wrong with relay.yaml."""

REPORT_EVERY = 20.0
"""Seconds between two reports to systemd that the store is still being opened."""

WAKE = LAG / LOOKS
"""Seconds of processor time between two signals that do nothing. Some C code, as `re`, lets other
threads run only after a signal, among them the watch thread of the event loop."""

LONGEST_STOP = 9.0
"""Seconds after which a stop waits for no plugin that blocks it: ten are promised."""

log = logging.getLogger("relay")


async def run(config_status: ConfigStatus, inherited: Inherited) -> None:
    """Run until SIGTERM or SIGINT.

    SIGHUP, or `relay reload`, reads relay.yaml again. If it is right, this process re-execs. It
    also does so if the store breaks: nothing that was read or opened of it may be used again.
    """
    raise_open_file_limit()
    daemon = Daemon(config_status, inherited)
    daemon.catch_signals()
    try:
        reexec = await daemon.run()
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)  # it would end the process where Python ends
    if reexec:
        inherited.reexec()


class Daemon:
    """One image of the process: runs the service, and decides whether a re-exec follows."""

    def __init__(self, config_status: ConfigStatus, inherited: Inherited) -> None:
        self._config_status = config_status
        self._inherited = inherited
        self._stop = asyncio.Event()
        self._reload = Reload()
        # Under nohup it is not to end with its terminal.
        handles_hangup = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
        self._had_terminal = handles_hangup and has_terminal()
        self._notifier = SystemdNotifier.of(os.environ)
        self._watchdog = Watchdog.of(os.environ, self._notifier)
        self._address_text = ""
        self._crash_log = CrashLog()
        self._blocked_loop = BlockedLoopWatch(self._crash_log, LAG / LOOKS, self._restart)
        self._ending = False
        self._ended_well = threading.Event()
        self._service: Service | None = None

    def catch_signals(self) -> None:
        """Where nohup has SIGHUP ignored, it stays so: `relay reload` asks by the socket."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(log_loop_error)
        loop.set_task_factory(plugin_calls.task_factory)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
            signal.signal(number, self._limit_stop)  # called also while a plugin blocks the loop
        signal.signal(signal.SIGVTALRM, lambda *_: None)
        signal.setitimer(signal.ITIMER_VIRTUAL, WAKE, WAKE)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            loop.add_signal_handler(signal.SIGHUP, self._reload.asked.set)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    async def run(self) -> bool:
        """Take callbacks and deliver until the end. Return whether a re-exec is to follow."""
        lag = LagWatch(look=self._blocked_loop.look)
        lag.start()
        self._watchdog.start()
        config = self._config_status.config
        async with started(
            config,
            inherited=self._inherited,
            config_status=self._config_status,
            crash_log=self._crash_log,
            reload=self._reload,
        ) as service:
            reexec = await self._run_service(service)
        lag.stop()
        self._ended_well.set()
        if reexec and not self._stop.is_set() and not self._terminal_gone():
            return True
        log.info("stopped; nothing is lost")
        return False

    async def _run_service(self, service: Service) -> bool:
        """Keep and report the configuration; return at the end whether a re-exec is to follow."""
        self._service = service
        config = self._config_status.config
        repeat_errors = asyncio.create_task(self._repeat_config_errors())
        for warning in config.warnings:
            log.warning("%s", warning)
        await asyncio.to_thread(last_good.keep, config)
        self._watchdog.require(service.pulse)
        self._address_text = f"callbacks are taken on {_url(config, service)}"
        log.info("%s", self._address_text)
        start_report = asyncio.create_task(self._report_start(service))
        reexec = await self._wait_for_end(service)
        self._blocked_loop.stop()
        self._limit_stop()
        start_report.cancel()
        if reexec:
            self._inherited.lock = service.prepare_reexec()
        else:
            self._notifier.stopping()
        log.info("starting anew" if reexec else "stopping")
        self._watchdog.require(None)
        repeat_errors.cancel()
        return reexec

    # the end of the process while a plugin blocks the event loop

    def _limit_stop(self, _: int = 0, __: FrameType | None = None) -> None:
        """Start the limit of the stop. This is also a signal handler, beside the loop's own."""
        if not self._ending:
            self._ending = True
            threading.Thread(
                target=self._enforce_stop_limit, name="stop-limit", daemon=True
            ).start()

    def _enforce_stop_limit(self) -> None:
        """End the process if the loop is still in one step of a plugin's code by then."""
        step = -1
        pause = LONGEST_STOP
        while not self._ended_well.wait(pause):
            call, now = plugin_calls.POSITION.call, plugin_calls.POSITION.steps
            if call is not None and step == now:
                self._end_now(call)
            step, pause = now, WAKE

    def _end_now(self, call: plugin_calls.PluginCall) -> None:
        log.critical("the stop waits for %s, and is cut short", call)
        stored = self._service is not None and self._service.store_closed
        if not self._stop.is_set() and self._service is not None and self._service.reexec_prepared:
            self._reexec_without_lock()
        os._exit(0 if stored else 1)

    def _restart(self) -> None:
        """Re-exec from another thread than the loop's, or end, if the stop has begun."""
        if not self._ending:
            log.critical("the process restarts in place")
            self._reexec_without_lock()
        os._exit(1)

    def _reexec_without_lock(self) -> None:
        """Leave the store as a kill would leave it, and release its lock."""
        with contextlib.suppress(OSError):
            Inherited(self._inherited.listeners).reexec()

    async def _report_start(self, service: Service) -> None:
        """Report to systemd that the relay is ready; until the store is opened or fails, extend."""
        while service.state is ServiceState.OPENING:
            self._notifier.extend_timeout(
                f"{self._address_text}; the store is being opened", 2 * REPORT_EVERY
            )
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(service.opened(), REPORT_EVERY)
        gc.freeze()  # what is there now stays: the collector need not look at it again
        gc.set_threshold(*COLLECT)
        self._report_ready()

    def _report_ready(self) -> None:
        """Report to systemd that the relay is ready, with the first problem."""
        first = next(iter(self._config_status.problems), "")
        self._notifier.ready(f"{first}; {self._address_text}" if first else self._address_text)

    async def _wait_for_end(self, service: Service) -> bool:
        """Wait for a stop, a reload or a failure. Return whether a re-exec is to follow."""
        stop = asyncio.create_task(self._stop.wait())
        reload = asyncio.create_task(self._wait_for_reload(service))
        ends = {stop, reload, asyncio.create_task(self._wait_for_failure(service))}
        done, pending = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        reexec = [task.result() for task in done]
        return stop not in done and any(reexec)

    async def _wait_for_failure(self, service: Service) -> bool:
        """Wait until the store breaks. Raises what else fails."""
        try:
            await service.failure()
        except StoreError as error:
            self._inherited.broke = StoreBackoff.after(
                str(error), service.store_lifetime(), self._inherited.broke
            )
            pause = self._inherited.broke.pause
            log.error("%s: going on without the store, which is tried in %g s", error, pause)
        return True

    async def _wait_for_reload(self, service: Service) -> bool:
        """Wait for a reload with a right relay.yaml, or for the end of the terminal.

        Returns whether a re-exec is to follow.
        """
        while True:
            await self._reload.asked.wait()
            if self._terminal_gone():
                return False
            self._notifier.reloading()
            problems = await self._check_config()
            if not problems:
                await service.opened()  # not in the middle of a migration
                self._inherited.broke = None
                self._reload.answer([])
                return True
            self._config_status.refuse(problems)
            self._reload.answer(problems)
            self._log_config_errors()
            self._report_ready()

    async def _check_config(self) -> list[str]:
        """What is wrong with relay.yaml, as it was at the last request to read it."""
        while True:
            self._reload.asked.clear()
            trial = asyncio.create_task(
                vet(self._config_status.config.path, self._inherited.listeners)
            )
            newer = asyncio.create_task(self._reload.asked.wait())
            try:
                await asyncio.wait({trial, newer}, return_when=asyncio.FIRST_COMPLETED)
                if trial.done():
                    return trial.result()
            finally:
                newer.cancel()
                trial.cancel()
                await asyncio.wait({trial})
            log.info("another reload was asked for: the trial of the configuration begins again")

    async def _repeat_config_errors(self) -> None:
        """Log what is wrong with relay.yaml, now and every so often while it is."""
        while True:
            self._log_config_errors()
            await asyncio.sleep(LOG_PROBLEMS_EVERY)

    def _log_config_errors(self) -> None:
        for sentence in self._config_status.complaints():
            log.error("%s", sentence)

    def _terminal_gone(self) -> bool:
        """Whether the process had a controlling terminal that has gone."""
        return self._had_terminal and not has_terminal()


def log_loop_error(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log an error that no task awaits, without the values that asyncio would show."""
    error = context.get("exception")
    log.error("%s", context["message"].partition(" in callback ")[0], exc_info=error)


def _url(config: Config, service: Service) -> str:
    scheme = "https" if config.server.tls else "http"
    host, port = service.address[:2]
    host = f"[{host}]" if ":" in host else host
    held = last_good.held_sources(config)
    source = next((name for name in config.sources if name not in held), "…")
    return f"{scheme}://{host}:{port}/callbacks/{source}"


def has_terminal() -> bool:
    """Whether the process has a controlling terminal that is still there."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True
