"""`relay backup`: a copy of the store, made while the relay runs."""

import contextlib
import os
from pathlib import Path

import click

from relay import ownership
from relay.cli import client, options
from relay.cli.output import count, print_json, progress
from relay.config.loader import Config
from relay.store.sqlite import queries
from relay.store.sqlite.backup import fill, new_copy, spilled
from relay.store.sqlite.connection import look_into
from relay.store.sqlite.descriptors import connected
from relay.units import size_text


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@options.config
@options.as_json
def backup(config: Config, file: Path, as_json: bool) -> None:
    """Copy the store to FILE, as it is at this moment; the relay may go on meanwhile.

    Callbacks that wait in the spill are in the copy, too. It is checked, and on disk, before it
    has its name. A file that is there already is not overwritten.
    """
    store, file = client.store_file(config), file.absolute()
    if ownership.owner_of(file.parent) == ownership.owner_of(store):
        client.become_owner(store)
    with new_copy(file) as copy, ownership.acting_for(store), progress(None, "copying") as bar:

        def show(done: int, total: int) -> None:
            what = "copying" if done < total else "checking"
            bar.update(bar.task_ids[0], completed=done, total=total, description=what)

        with contextlib.closing(look_into(store)) as source:
            fill(copy, source, config.store_fallback, show)
        with connected(copy.descriptor) as made:
            events, waiting = queries.event_count(made), sum(1 for _ in spilled(made))
        size = os.fstat(copy.descriptor).st_size
    if as_json:
        print_json({"file": str(file), "events": events, "spilled": waiting, "bytes": size})
        return
    also = f", and {count(waiting, 'callback')} of the spill" if waiting else ""
    click.echo(f"{file} has {count(events, 'event')}{also}: {size_text(size)}, checked.")
