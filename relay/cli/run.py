"""`relay run`: the service, until it is told to stop."""

import logging
import os
import threading

import click
import uvloop

from relay import log, process
from relay.cli import options
from relay.config import Config

LINGER = 1.0
"""Seconds for an orderly end of the process, once the relay has stopped."""


@click.command()
@options.filled_config
@click.option("--verbose", "-v", is_flag=True, help="Log each callback and delivery.")
def run(config: Config, verbose: bool) -> None:
    """Take callbacks and deliver them, until stopped (SIGTERM, Ctrl-C)."""
    log.set_up(logging.DEBUG if verbose else logging.INFO)
    uvloop.run(_until_stopped(config))


async def _until_stopped(config: Config) -> None:
    """Run, and end the process then, whatever threads and tasks a plugin has left behind.

    All is on disk by then; asyncio and Python would wait for those as long as they please.
    """
    status = 1
    try:
        await process.run(config)
        status = 0
    finally:
        end = threading.Timer(LINGER, os._exit, [status])
        end.daemon = True
        end.start()
