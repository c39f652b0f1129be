"""`relay setup`: make on a sink's other side what its deliveries need there."""

import asyncio
import inspect
import time
from pathlib import Path
from typing import Any

import click

from relay.cli import accounts, client, options
from relay.cli.output import printable, progress
from relay.clock import SystemClock
from relay.config.loader import Config, SinkConfig
from relay.delivery.classify import lines, outcome_of, readable
from relay.delivery.manager import make_sink
from relay.delivery.sender import within

LONGEST = 24 * 3600.0
"""Seconds; to fill the keys of a million people takes hours."""


@click.command()
@click.argument("name", metavar="SINK")
@options.filled_config
@click.option(
    "--backfill-keys",
    is_flag=True,
    help="Also give the people who are there already the key by which events find them.",
)
@click.option(
    "--create",
    multiple=True,
    metavar="FIELD",
    help="Make this field though its name is much like another's. May be given several times.",
)
def setup(config: Config, name: str, backfill_keys: bool, create: tuple[str, ...]) -> None:
    """Make what a sink needs on its other side, such as the fields that it fills.

    It says what it made, and what is left for you to do there. Run it again whenever you like: it
    makes only what is missing.
    """
    if isinstance(config.store, Path):
        client.become_owner(config.store)
    lines = asyncio.run(_set_up(config, _sink(config, name), backfill=backfill_keys, create=create))
    for line in lines or ["nothing to set up"]:
        click.echo(printable(line))


def _sink(config: Config, name: str) -> SinkConfig:
    if name not in config.sinks:
        known = ", ".join(config.sinks) or "none"
        raise click.UsageError(f"no sink {name!r} in relay.yaml (known: {known})")
    return config.sinks[name]


async def _set_up(
    config: Config, chosen: SinkConfig, *, backfill: bool, create: tuple[str, ...]
) -> list[str]:
    """What the sink's own `setup` did. Plugins may raise anything."""
    more: dict[str, Any] = {"create": create} if create else {}
    if create and "create" not in inspect.signature(chosen.sink_class.setup).parameters:
        raise click.UsageError(f"the sink {chosen.name} makes no fields, so --create has no use")
    try:
        sink = make_sink(chosen, SystemClock(), accounts.of_store(config))
        with progress(None, "setting up") as bar:

            def show(done: int, total: int | None) -> None:
                bar.update(bar.task_ids[0], completed=done, total=total)

            async with sink.http:
                found = await within(LONGEST, sink.setup(backfill=backfill, progress=show, **more))
        return lines(found)
    except Exception as error:  # it is the plugin's, whatever it is
        reason = outcome_of(error, time.time()).reason
        raise click.ClickException(f"{chosen.name}: {printable(readable(reason))}") from error
