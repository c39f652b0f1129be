"""`relay restore`: a copy of the store takes its place again."""

import time
from pathlib import Path

import click

from relay.cli import client, options
from relay.cli.output import count
from relay.configuration.config import Config
from relay.sqlite.restore import restore as restored_from


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@options.config
@options.yes
def restore(config: Config, file: Path, yes: bool) -> None:
    """Put FILE, a copy that `relay backup` or an upgrade made, in the store's place.

    Stop the relay first. The callbacks that came since FILE was made are not lost: they wait
    beside the store, and the next start takes them in. The store as it was is kept.
    """
    store = client.store_file(config)
    if not yes:
        click.confirm(f"Replace {store} with a copy of {file}?", abort=True)
    found = restored_from(file.absolute(), store, config.store_fallback, time.time())
    click.echo(f"{store} is now a copy of {file}.")
    if found.since:
        came = f"{count(found.since, 'callback')} that came since, or waited then"
        click.echo(f"The next start takes in the {came}: {config.store_fallback}")
    if found.erased:
        numbers = count(found.erased, "number")
        click.echo(f"Erased since then, and there again: {numbers}. `relay erase` once more.")
    if found.aside:
        click.echo(f"The store as it was: {found.aside}")
    if found.trouble:
        click.echo(f"Not all of that could be read: {found.trouble}", err=True)
        raise click.exceptions.Exit(1)
