"""`relay check`: is the configuration right, and do the sinks answer?"""

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path

import click

from relay.cli import accounts, client, options
from relay.cli.options import WrongConfiguration
from relay.cli.output import count, printable
from relay.config import last_good
from relay.config.loader import Config, ConfigError
from relay.delivery import crashes, sink_checks
from relay.delivery.classify import divided
from relay.preflight import vetted
from relay.server.sockets import Listeners
from relay.server.tls import Certificate, missing_chain


@click.command()
@options.config_path
@click.option("--online", is_flag=True, help="Also ask each sink's other side.")
def check(path: Path, online: bool) -> None:
    """Look for mistakes in relay.yaml; with --online also for sinks that would fail."""
    try:
        config = asyncio.run(vetted(path, Listeners()))
    except ConfigError as error:
        lines = [str(error), *_instead(path, error), *_elsewhere(error)]
        raise WrongConfiguration("\n".join(lines)) from error
    if tls := config.server.tls:
        Certificate(tls.cert, tls.key)
    sources, sinks = _named(config.sources, "source"), _named(config.sinks, "sink")
    click.echo(f"{config.path} is right: {sources}, {sinks}.")
    for each in [*config.warnings, *_of_chain(config)]:
        click.echo(f"Warning: {each}", err=True)
    if not config.sources:
        click.echo("Without a source, no callback is taken: add one under `sources:`.", err=True)
    for name in _without_consent(config):
        click.echo(
            f"Warning: sinks.{name}: its `when` can keep opt-outs away; options.consent has each"
            " written, whatever `when` says.",
            err=True,
        )
    _name_orphans(config)
    if online and not crashes.run_watched(_all_answer(config)):
        raise click.exceptions.Exit(1)


def _of_chain(config: Config) -> list[str]:
    """What is to be said of a certificate without its chain."""
    if (tls := config.server.tls) is None or not (said := missing_chain(tls.cert)):
        return []
    return [f"server.tls.cert: {said}"]


def _without_consent(config: Config) -> list[str]:
    """The sinks that could write consent, and have no option for it but a `when`."""
    return [
        name
        for name, sink in config.sinks.items()
        if sink.when is not None and getattr(sink.options, "consent", ...) is None
    ]


def _named(parts: Mapping[str, object], thing: str) -> str:
    return f"{count(len(parts), thing)} ({', '.join(parts)})" if parts else f"no {thing}"


def _instead(path: Path, wrong: ConfigError) -> list[str]:
    """What `relay run` would do with a configuration that is wrong, unless it refuses it."""
    try:
        last = last_good.load(path, os.environ, wrong, fill=True)
    except ConfigError:
        return []
    held = [name for name, sink in last.sinks.items() if sink.held is not None]
    without = f", holding back {', '.join(held)}" if held else ""
    return [f"Until it is right, `relay run` goes on with the last valid configuration{without}."]


def _elsewhere(wrong: ConfigError) -> list[str]:
    """Who does know what is unknown here, if that is all that is wrong."""
    if all(each.message.startswith("${") for each in wrong.problems):
        return ["If the service knows it, `relay doctor` has the running relay check its sinks."]
    return []


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
    found = await sink_checks.check_all(enabled, accounts.of_store(config))
    all_well = True
    for name, lines in found.items():
        problems, notices = divided(lines)
        told = [f"notice: {each}" for each in notices if each != sink_checks.NOT_ASKED]
        if not problems:
            told.insert(0, sink_checks.NOT_ASKED if sink_checks.NOT_ASKED in notices else "well")
        for each in problems + told:
            click.echo(f"{name}: {printable(each)}")
        all_well &= not problems
    return all_well
