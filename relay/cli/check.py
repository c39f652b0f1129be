"""`relay check`: is the configuration right, and do the sinks answer?"""

import asyncio

import click

from relay.certificate import Certificate
from relay.classify import readable
from relay.cli import client, options
from relay.cli.output import count, printable
from relay.clock import SystemClock
from relay.config import Config, SinkConfig
from relay.dispatch import within
from relay.fleet import make_sink

TIMEOUT = 30.0


@click.command()
@options.filled_config
@click.option("--online", is_flag=True, help="Also ask each sink's other side.")
def check(config: Config, online: bool) -> None:
    """Look for mistakes in relay.yaml; with --online also for sinks that would fail."""
    if tls := config.server.tls:
        Certificate(tls.cert, tls.key)
    click.echo(
        f"{config.path} is right: {count(len(config.sources), 'source')}"
        f" ({', '.join(config.sources)}), {count(len(config.sinks), 'sink')}"
        f" ({', '.join(config.sinks)})."
    )
    _name_orphans(config)
    if online and not asyncio.run(_all_answer(config)):
        raise click.exceptions.Exit(1)


def _name_orphans(config: Config) -> None:
    """Sinks that have gone from the file with deliveries left; said only where it can be read."""
    try:
        if not client.has_store(config):
            return
        sinks = client.ask(config, lambda session: session.get("/sinks"))
    except (click.ClickException, OSError) as error:
        reason = error.message if isinstance(error, click.ClickException) else error
        click.echo(f"The store was not looked at: {reason}.", err=True)
        return
    for sink in sinks:
        if sink["state"] == "orphaned":
            name = sink["name"]
            click.echo(
                f"Orphaned: {name}, {sink['pending']} pending and {sink['dead']} dead."
                f" `relay sinks rename {name} NEW` or `relay sinks discard {name}`."
            )


async def _all_answer(config: Config) -> bool:
    enabled = [sink for sink in config.sinks.values() if sink.enabled]
    found = await asyncio.gather(*(_problems(sink) for sink in enabled))
    for sink, problems in zip(enabled, found, strict=True):
        for problem in problems or ["well"]:
            click.echo(f"{sink.name}: {printable(problem)}")
    return not any(found)


async def _problems(sink: SinkConfig) -> list[str]:
    """What the sink's own `check` finds. Plugins may raise anything."""
    try:
        made = make_sink(sink, SystemClock())
        async with made.http:
            found = await within(TIMEOUT, made.check())
            return [readable(each) for each in found or ()]
    except TimeoutError:
        return [f"no answer within {TIMEOUT:.0f} seconds"]
    except Exception as error:  # noqa: BLE001  it is the plugin's, whatever it is
        return [f"{type(error).__name__}: {error}"]
