"""The process of `relay run`: its signals, its end, and what systemd and the log are told."""

import asyncio
import contextlib
import gc
import logging
import os
import signal
import threading
from types import FrameType
from typing import Any

from relay import terminal
from relay.api.reload import Reload
from relay.config import last_good
from relay.config.loader import Config
from relay.config.status import Standing
from relay.delivery import plugin_calls
from relay.delivery.crashes import BlockedLoopWatch, CrashLog
from relay.health import StoreBackoff
from relay.loop_lag import LAG, LOOKS, LagWatch
from relay.preflight import vet
from relay.reexec import SIGNALS, Kept
from relay.sd_notify import Notifier
from relay.server.connections import raise_open_file_limit
from relay.service import Service, started
from relay.store import StoreError
from relay.watchdog import Watchdog

COLLECT = (5_000, 20, 100)
"""The thresholds of the garbage collector. It is seldom needed, as the relay makes hardly any
reference cycles; what plugins leave is collected in steps of a few milliseconds, during which
everything stands still."""

REMIND = 600.0
"""Seconds from one complaint of a wrong relay.yaml to the next."""

NOT_YET = 20.0
"""Seconds after which systemd hears again that the store is still being opened."""

WAKE = LAG / LOOKS
"""Seconds of processor time between two signals that do nothing. Some C code, as `re`, lets other
threads run only after a signal, among them the one that looks for a standstill."""

LONGEST_STOP = 9.0
"""Seconds after which a stop waits for no plugin that blocks it: ten are promised."""

log = logging.getLogger("relay")


async def run(standing: Standing, kept: Kept) -> None:
    """Run until SIGTERM or SIGINT.

    SIGHUP, or `relay reload`, has relay.yaml read again: where it is right, this process goes on
    as a new image. It does so, too, where the store breaks: nothing that is known or open of that
    may be used again.
    """
    raise_open_file_limit()
    process = Process(standing, kept)
    process.catch_signals()
    try:
        anew = await process.live()
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)  # it would end the process where Python ends
    if anew:
        kept.start_anew()


class Process:
    """The life of one image of the process."""

    def __init__(self, standing: Standing, kept: Kept) -> None:
        self._standing = standing
        self._kept = kept
        self._stop = asyncio.Event()
        self._reload = Reload()
        # Under nohup it is not to end with its terminal.
        heeds_hangup = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
        self._had_terminal = heeds_hangup and terminal.has_one()
        self._notifier = Notifier.of(os.environ)
        self._watchdog = Watchdog.of(os.environ, self._notifier)
        self._taken = ""
        self._crash_log = CrashLog()
        self._standstill = BlockedLoopWatch(self._crash_log, LAG / LOOKS, self._restart)
        self._ending = False
        self._ended_well = threading.Event()
        self._service: Service | None = None

    def catch_signals(self) -> None:
        """Where nohup has SIGHUP ignored, it stays so: `relay reload` asks by the socket."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(tell_of_error)
        loop.set_task_factory(plugin_calls.task_factory)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
            signal.signal(number, self._limit_stop)  # heard also while a plugin blocks the loop
        signal.signal(signal.SIGVTALRM, lambda *_: None)
        signal.setitimer(signal.ITIMER_VIRTUAL, WAKE, WAKE)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            loop.add_signal_handler(signal.SIGHUP, self._reload.asked.set)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    async def live(self) -> bool:
        """Take callbacks and deliver until the end; whether the process is to start anew then."""
        lag = LagWatch(look=self._standstill.look)
        lag.start()
        self._watchdog.start()
        config = self._standing.config
        async with started(
            config,
            kept=self._kept,
            standing=self._standing,
            crash_log=self._crash_log,
            reload=self._reload,
        ) as service:
            self._service = service
            reminder = asyncio.create_task(self._remind())
            for warning in config.warnings:
                log.warning("%s", warning)
            await asyncio.to_thread(last_good.keep, config)
            self._watchdog.heed(service.pulse)
            self._taken = f"callbacks are taken on {_url(config, service)}"
            log.info("%s", self._taken)
            settling = asyncio.create_task(self._settle(service))
            anew = await self._ended(service)
            self._standstill.stop()
            self._limit_stop()
            settling.cancel()
            if anew:
                self._kept.lock = service.go_on()
            else:
                self._notifier.stopping()
            log.info("starting anew" if anew else "stopping")
            self._watchdog.heed(None)
            reminder.cancel()
        lag.stop()
        self._ended_well.set()
        if anew and not self._stop.is_set() and not self._left_alone():
            return True
        log.info("stopped; nothing is lost")
        return False

    # its end, where a plugin does not let the event loop go on

    def _limit_stop(self, _: int = 0, __: FrameType | None = None) -> None:
        """From now on the end may take so long. A signal handler, too, beside the loop's own."""
        if not self._ending:
            self._ending = True
            threading.Thread(target=self._wait_for_end, name="stop-limit", daemon=True).start()

    def _wait_for_end(self) -> None:
        """Cut the stop short where the loop is still in one step of a plugin's code by then."""
        step = -1
        pause = LONGEST_STOP
        while not self._ended_well.wait(pause):
            call, now = plugin_calls.POSITION.call, plugin_calls.POSITION.steps
            if call is not None and step == now:
                self._cut_short(call)
            step, pause = now, WAKE

    def _cut_short(self, call: plugin_calls.Call) -> None:
        log.critical("the stop waits for %s, and is cut short", call)
        stored = self._service is not None and self._service.stored
        if not self._stop.is_set() and self._service is not None and self._service.goes_on:
            self._next_image()
        os._exit(0 if stored else 1)

    def _restart(self) -> None:
        """Go on as a new image, from another thread than the loop's; or end, if that was asked."""
        if not self._ending:
            log.critical("the process restarts in place")
            self._next_image()
        os._exit(1)

    def _next_image(self) -> None:
        """The store is left as a kill would leave it, and its lock is let go."""
        with contextlib.suppress(OSError):
            Kept(self._kept.listeners).start_anew()

    async def _settle(self, service: Service) -> None:
        """Tell systemd that all is there, or that the store cannot be had; till then, to wait."""
        while not service.settled.is_set():
            self._notifier.not_yet(f"{self._taken}; the store is being opened", 2 * NOT_YET)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(service.settled.wait(), NOT_YET)
        gc.freeze()  # what is there now stays: the collector need not look at it again
        gc.set_threshold(*COLLECT)
        self._tell()

    def _tell(self) -> None:
        """Tell systemd how it stands."""
        first = next(iter(self._standing.problems), "")
        self._notifier.ready(f"{first}; {self._taken}" if first else self._taken)

    async def _ended(self, service: Service) -> bool:
        """Wait for the end, which a failure is too; whether to start anew then."""
        stop = asyncio.create_task(self._stop.wait())
        reload = asyncio.create_task(self._reloads(service))
        ends = {stop, reload, asyncio.create_task(self._breaks(service))}
        done, pending = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        anew = [task.result() for task in done]
        return stop not in done and any(anew)

    async def _breaks(self, service: Service) -> bool:
        """Wait until the store breaks. Raises what else fails."""
        try:
            await service.failure()
        except StoreError as error:
            self._kept.broke = StoreBackoff.after(str(error), service.lasted(), self._kept.broke)
            pause = self._kept.broke.pause
            log.error("%s: going on without the store, which is tried in %g s", error, pause)
        return True

    async def _reloads(self, service: Service) -> bool:
        """Wait until relay.yaml is to be read again and is right; or for the terminal's end."""
        while True:
            await self._reload.asked.wait()
            if self._left_alone():
                return False
            self._notifier.reloading()
            problems = await self._tried_out()
            if not problems:
                await service.settled.wait()  # not in the middle of a migration
                self._kept.broke = None
                self._reload.answer([])
                return True
            self._standing.refuse(problems)
            self._reload.answer(problems)
            self._complain()
            self._tell()

    async def _tried_out(self) -> list[str]:
        """What is wrong with relay.yaml, as it was at the last request to read it."""
        while True:
            self._reload.asked.clear()
            trial = asyncio.create_task(vet(self._standing.config.path, self._kept.listeners))
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

    async def _remind(self) -> None:
        """Say that relay.yaml is wrong, now and every so often while it is."""
        while True:
            self._complain()
            await asyncio.sleep(REMIND)

    def _complain(self) -> None:
        for sentence in self._standing.complaints():
            log.error("%s", sentence)

    def _left_alone(self) -> bool:
        """Whether the terminal has gone from which it was started."""
        return self._had_terminal and not terminal.has_one()


def tell_of_error(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log an error that nobody waits for; asyncio would show the values that it came with."""
    error = context.get("exception")
    log.error("%s", context["message"].partition(" in callback ")[0], exc_info=error)


def _url(config: Config, service: Service) -> str:
    scheme = "https" if config.server.tls else "http"
    host, port = service.address[:2]
    host = f"[{host}]" if ":" in host else host
    return f"{scheme}://{host}:{port}/callbacks/{next(iter(config.sources), '…')}"
