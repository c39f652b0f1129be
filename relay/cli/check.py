"""`relay check`: is the configuration right, and do the sinks answer?"""

import asyncio

import click

from relay import checkup
from relay.certificate import Certificate
from relay.cli import client, options
from relay.cli.output import count, printable
from relay.config import Config


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
    found = await checkup.check_all(sink for sink in config.sinks.values() if sink.enabled)
    for name, problems in found.items():
        for problem in problems or ["well"]:
            click.echo(f"{name}: {printable(problem)}")
    return not any(found.values())
