"""Commands that look after the store: backup, restore, purge, erase and consent export."""

import contextlib
import csv
import errno
import os
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import apsw
import click
import orjson

from relay import ownership, phone
from relay.api import PAGE
from relay.cli import HelpGroup, client, options
from relay.cli.client import ApiClient, wait_for_job
from relay.cli.output import count, print_json, printable, progress
from relay.config.loader import Config
from relay.restore import restore as restored_from
from relay.store.sqlite import queries
from relay.store.sqlite.backup import fill, new_copy, spilled
from relay.store.sqlite.connection import connect_opened, look_into, look_into_held
from relay.units import duration, size_text


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@options.config
@options.as_json
def backup(config: Config, file: Path, as_json: bool) -> None:
    """Copy the store to FILE, as it is at this moment. The relay may run meanwhile.

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
            fill(copy, source, config.state.spill, show)
        with connect_opened(copy.descriptor) as made:
            events, waiting = queries.event_count(made), sum(1 for _ in spilled(made))
        size = os.fstat(copy.descriptor).st_size
    if as_json:
        print_json({"file": str(file), "events": events, "spilled": waiting, "bytes": size})
        return
    also = f", and {count(waiting, 'callback')} of the spill" if waiting else ""
    click.echo(f"{file} has {count(events, 'event')}{also}: {size_text(size)}, checked.")


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
        found = restored_from(copy, store, config.state.spill, time.time())
    click.echo(f"{store} is now a copy of {file}.")
    if found.since:
        came = f"{count(found.since, 'callback')} that came since, or waited then"
        click.echo(f"The next start takes in the {came}: {config.state.spill}")
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


def _duration(text: str) -> float:
    try:
        return duration(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.command()
@options.config
@options.as_json
@options.yes
@click.option(
    "--older-than",
    type=_duration,
    metavar="DURATION",
    help="Delete what is older than this, as in 7d, instead of the terms of relay.yaml.",
)
@click.option("--dry-run", is_flag=True, help="Only say how many would be deleted.")
def purge(
    config: Config, as_json: bool, yes: bool, older_than: float | None, dry_run: bool
) -> None:
    """Delete events and quarantined callbacks whose term has passed.

    The running relay does so by itself, as `retention` in relay.yaml says. What still has to be
    delivered somewhere stays, and so does an opt-out that something older may have to be followed
    by.
    """
    if older_than is not None and not dry_run and not yes:
        click.confirm("Delete all of that age for good, dead ones too?", abort=True, err=True)

    async def question(session: ApiClient) -> dict[str, Any]:
        asked = {"older_than": older_than, "dry_run": dry_run}
        return await wait_for_job(session, "/purge", "purging", **asked)

    found = client.ask(config, question)
    if as_json:
        print_json(found)
        return
    events, callbacks = count(found["events"], "event"), count(found["callbacks"], "callback")
    word = "would go" if dry_run else "deleted"
    click.echo(f"{events} and {callbacks} in quarantine {word}.")


PLACES = {
    "events": "event",
    "quarantine": "quarantined callback",
    "spill": "spilled callback",
    "mentions": "mention in events of others",
    "attempts": "answer of a receiver",
    "deliveries": "delivery of others",
    "sinks": "sink's state",
    "meta": "note",
}


@click.command(context_settings={"allow_extra_args": True})
@options.config
@options.as_json
@options.yes
@click.pass_context
def erase(ctx: click.Context, config: Config, as_json: bool, yes: bool) -> None:
    """Erase a contact's number, and all that came from it, from this machine.

    The number is read from standard input, or asked for. What remains is a keyed hash: of who
    opted out when, and of this erasure. It says what it cannot reach.
    """
    if ctx.args:  # click's own error would repeat the number
        raise click.UsageError(
            "the number is no argument, as others on this machine can see those:"
            " type it when you are asked, or pipe it in"
        )
    number = _number(config)
    if not yes and sys.stdin.isatty():
        click.confirm("Erase all that there is of this number, for good?", abort=True, err=True)

    async def question(session: ApiClient) -> dict[str, Any]:
        return await wait_for_job(session, "/erase", "erasing", mobile=number)

    found = client.ask(config, question)
    if as_json:
        print_json(found)
    else:
        _report(found)
    if found["traces"]:
        raise click.exceptions.Exit(1)


def _number(config: Config) -> str:
    if sys.stdin.isatty():
        text = click.prompt("Number", hide_input=True, err=True)
    else:
        text = sys.stdin.readline()
    region = next((source.country for source in config.sources.values()), "US")
    number = phone.e164(text.strip(), region)
    if number is None:
        raise click.UsageError("that is no number that can exist; write it as +12125551212")
    return number


def _report(found: dict[str, Any]) -> None:
    for place, thing in PLACES.items():
        if number := found["found"].get(place):
            click.echo(f"{_count(number, thing)} erased")
    for name, done in found["sinks"].items():
        click.echo(
            f"{name}: {_count(done['records'], 'row')} erased,"
            f" {_count(done['mentions'], 'mention')} blacked out"
        )
    if found["traces"]:
        click.echo(
            f"The store's file still holds the number in {found['traces']} places.", err=True
        )
    else:
        click.echo(f"{found['searched']:,} bytes of the store searched: the number is in none")
    click.echo("Not reached:")
    for each in found["left"]:
        click.echo(f"  {printable(each)}")


def _count(number: int, thing: str) -> str:
    """Only the first word of several has a plural."""
    first, space, rest = thing.partition(" in " if " in " in thing else " of ")
    return f"{count(number, first)}{space}{rest}"


COLUMNS = ("received", "source", "mobile", "contact", "word", "test", "sink", "accepted")


@click.group(cls=HelpGroup)
def consent() -> None:
    """Show the log of opt-outs and opt-ins, which no retention touches."""


@consent.command()
@options.config
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print one JSON array. Default: CSV with a line for each sink.",
)
def export(config: Config, as_json: bool) -> None:
    """Print every opt-out and opt-in, when it was received, and when each sink accepted it.

    `mobile` is the number as long as its event is kept; `contact` is a keyed hash, which stays
    the same for good.
    """
    found = client.ask(config, _words)
    if as_json:
        print_json(found)
    else:
        _print_csv(found)


async def _words(session: ApiClient) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while page := await session.get("/words", after=found[-1]["seq"] if found else 0, limit=PAGE):
        found += page
    return [{name: each[name] for name in each if name != "seq"} for each in found]


def _print_csv(found: Iterable[dict[str, Any]]) -> None:
    writer = csv.writer(sys.stdout)
    writer.writerow(COLUMNS)
    for each in found:
        writer.writerows(_lines(each))


def _lines(word: dict[str, Any]) -> Iterator[list[Any]]:
    """One for each sink that accepted it, or one."""
    said = [word[name] for name in COLUMNS[:5]] + [orjson.dumps(word["test"]).decode()]
    for sink, accepted in word["accepted"].items() or [(None, None)]:
        yield [*said, sink, accepted]
