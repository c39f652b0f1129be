"""The process of `relay run`: its signals, and what systemd and the log are told of it."""

import asyncio
import gc
import logging
import os
import signal
from typing import Any

from relay.config import Config
from relay.descriptors import raise_limit
from relay.lag import LagWatch
from relay.listeners import Listeners
from relay.notify import Notifier
from relay.service import Service, started
from relay.watchdog import Watchdog

COLLECT = (5_000, 20, 100)
"""When garbage is looked for: seldom, as hardly any is in circles; but what a plugin leaves of it
is cleared away in pieces of a few milliseconds, for everything stands still meanwhile."""

log = logging.getLogger("relay")


async def run(config: Config) -> None:
    """Run until SIGTERM, SIGINT or SIGHUP. Raises StoreBroken when the store fails."""
    raise_limit()
    stop = _stop_signal()
    listeners = Listeners.inherited(os.environ)
    notifier = Notifier.of(os.environ)
    watchdog = Watchdog.of(os.environ, notifier)
    lag = LagWatch()
    watchdog.start()
    try:
        async with started(config, listeners=listeners) as service:
            lag.start()
            watchdog.heed(service.pulse)
            gc.freeze()  # what is there now stays: the collector need not look at it again
            gc.set_threshold(*COLLECT)
            taken = f"callbacks are taken on {_url(config, service)}"
            log.info(taken)
            notifier.ready(taken)
            await _ended(service, stop)
            log.info("stopping")
            notifier.stopping()
            watchdog.heed(None)
            lag.stop()
    finally:
        watchdog.stop()
    log.info("stopped; nothing is lost")


async def _ended(service: Service, stop: asyncio.Event) -> None:
    """Return when it is to stop; raise where a part of it fails."""
    ends = [asyncio.create_task(stop.wait()), asyncio.create_task(service.failure())]
    done, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()


def _stop_signal() -> asyncio.Event:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(tell_of_error)
    for number in _stopping():
        loop.add_signal_handler(number, stop.set)
    return stop


def _stopping() -> list[signal.Signals]:
    """The signals that stop it. A terminal that closes sends SIGHUP, which nohup has ignored."""
    stopping = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        stopping.append(signal.SIGHUP)
    return stopping


def tell_of_error(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log an error that nobody waits for; asyncio would show the values that it came with."""
    error = context.get("exception")
    log.error("%s", context["message"].partition(" in callback ")[0], exc_info=error)


def _url(config: Config, service: Service) -> str:
    scheme = "https" if config.server.tls else "http"
    host, port = service.address[:2]
    host = f"[{host}]" if ":" in host else host
    return f"{scheme}://{host}:{port}/callbacks/{next(iter(config.sources), '…')}"
