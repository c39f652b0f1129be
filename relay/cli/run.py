"""`relay run`: the service, until it is told to stop."""

import logging

import click
import uvloop

from relay import log, service
from relay.cli import options
from relay.config import Config


@click.command()
@options.filled_config
@click.option("--verbose", "-v", is_flag=True, help="Log each callback and delivery.")
def run(config: Config, verbose: bool) -> None:
    """Take callbacks and deliver them, until stopped (SIGTERM, Ctrl-C)."""
    log.set_up(logging.DEBUG if verbose else logging.INFO)
    uvloop.run(service.run(config))
