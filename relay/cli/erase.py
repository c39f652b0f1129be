"""`relay erase`: forget a contact. The number is read or asked for; it is never an argument."""

import sys
from typing import Any

import click

from relay import phone
from relay.cli import client, options
from relay.cli.client import Client
from relay.cli.jobs import finished
from relay.cli.output import count, print_json, printable
from relay.config.loader import Config

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

    async def question(session: Client) -> dict[str, Any]:
        return await finished(session, "/erase", "erasing", mobile=number)

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
