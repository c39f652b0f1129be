"""`relay restore`: a copy of the store takes its place again."""

import contextlib
import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path

import apsw
import click

from relay import ownership
from relay.cli import client, options
from relay.cli.output import count
from relay.config.loader import Config
from relay.store.sqlite.connection import look_into, look_into_held
from relay.store.sqlite.restore import restore as restored_from


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
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
    with _copy(file.absolute(), store) as copy:
        found = restored_from(copy, store, config.store_fallback, time.time())
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


@contextlib.contextmanager
def _copy(file: Path, store: Path) -> Iterator[apsw.Connection]:
    """The copy, to be read by the owner of the store, which root becomes.

    That user may not be able to open it: then it is opened before, as the owner of it.
    """
    if os.geteuid() != 0:
        with contextlib.closing(look_into(file)) as copy:
            yield copy
        return
    with contextlib.ExitStack() as stack:
        for whose in (store, file):
            with ownership.acting_for(whose), contextlib.suppress(PermissionError):
                connect = stack.enter_context(look_into_held(file))
                break
        else:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(file))
        client.become_owner(store)
        yield stack.enter_context(contextlib.closing(connect()))
